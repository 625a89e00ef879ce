//! A table before it's written: headings, and rows of typed values. Each format (terminal,
//! Markdown, CSV, …) writes it in its own way, and needs nothing else.

use super::model::Overhead;

/// What a column holds, apart from how it's got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// Its name for programs.
    pub key: &'static str,
    /// Its name for people.
    pub heading: &'static str,
    /// What its values are.
    pub unit: Unit,
    /// What it says, in a sentence.
    pub meaning: &'static str,
}

/// What values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// They name the row.
    Name,
    /// Words.
    Text,
    /// Numbers of things.
    Count,
    /// Seconds.
    Time(Scale),
    /// Percent.
    Percent,
    /// Percent, with a 95 % interval.
    PercentWithInterval,
    /// 2^20 bytes.
    Mebibytes,
    /// Energy.
    Joules,
    /// Of something in each second.
    PerSecond,
    /// A part of something, from 0 to 1.
    Ratio,
    /// Whatever a metric is in.
    Score,
}

/// The unit in which people read times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The one that suits each time.
    Fitting,
    /// Milliseconds for all.
    Milliseconds,
    /// Seconds for all.
    Seconds,
}

impl Unit {
    /// The unit's symbol, for a number as it is in a [`Value`]; empty for names, words and counts.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Name | Self::Text | Self::Count | Self::Ratio | Self::Score => "",
            Self::Time(_) => "s",
            Self::Percent | Self::PercentWithInterval => "%",
            Self::Mebibytes => "MiB",
            Self::Joules => "J",
            Self::PerSecond => "1/s",
        }
    }
}

/// A value of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// There's none.
    Missing,
    /// Words.
    Text(String),
    /// A number.
    Number(f64),
    /// A number with its interval.
    Estimate {
        /// The number.
        value: f64,
        /// The 95 % interval, if there are enough pairs for one.
        interval: Option<[f64; 2]>,
        /// Whether it was told from zero; where many stand together, with all of them in view.
        detected: bool,
        /// Whether it would be told from zero if it stood alone, and isn't.
        is_taken_back: bool,
        /// The probability of such a value if the true one were zero; `None` where that can't be
        /// told, or it's of a control.
        p: Option<f64>,
        /// How often the processes were started anew; `None` if that isn't known.
        starts: Option<usize>,
    },
}

impl From<Option<f64>> for Value {
    fn from(number: Option<f64>) -> Self {
        number.map_or(Self::Missing, Self::Number)
    }
}

impl From<Option<&Overhead>> for Value {
    fn from(over: Option<&Overhead>) -> Self {
        over.map_or(Self::Missing, |over| Self::Estimate {
            value: over.pct,
            interval: over.interval_pct,
            detected: over.detected,
            is_taken_back: false,
            p: None,
            starts: over.starts,
        })
    }
}

impl Value {
    /// An overhead over `categories` categories of prompts that's one of many.
    pub fn one_of_many(over: Option<&Overhead>, categories: usize) -> Self {
        let mut value = Self::from(over);
        if let (Self::Estimate { p, .. }, Some(over)) = (&mut value, over) {
            *p = over.p_of_none(categories);
        }
        value
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        text.map_or(Self::Missing, |text| Self::Text(text.to_owned()))
    }
}

/// Headings, and rows of as many values.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// One for each column.
    pub headings: Vec<&'static Heading>,
    /// One value for each column.
    pub rows: Vec<Vec<Value>>,
}
