//! Rows as JSON, an object on each line.
//!
//! Numbers are in their columns' units, counts are integers, and what's missing is null. An estimate
//! is four keys, as in CSV. `group` and `differs_by` say which rows can be compared.

use serde_json::{Map, Value as Json, json};

use super::sections::Section;
use crate::report::table::{Heading, Unit, Value};

/// The rows of all sections.
pub fn json_lines(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        for row in &section.table.rows {
            let mut object = Map::new();
            for (heading, value) in section.table.headings.iter().zip(row) {
                add(&mut object, heading, value);
            }
            object.insert("group".to_owned(), section.group.into());
            object.insert("differs_by".to_owned(), json!(section.differs_by));
            text.push_str(&Json::Object(object).to_string());
            text.push('\n');
        }
    }
    text
}

fn add(object: &mut Map<String, Json>, heading: &Heading, value: &Value) {
    let mut set = |end: &str, value: Json| {
        object.insert(format!("{}{end}", heading.key), value);
    };
    if heading.unit == Unit::PercentWithInterval {
        let (number, interval, detected) = match value {
            Value::Estimate {
                value,
                interval,
                detected,
                ..
            } => (json!(value), *interval, json!(detected)),
            _ => (Json::Null, None, Json::Null),
        };
        set("", number);
        set("_low", json!(interval.map(|[low, _]| low)));
        set("_high", json!(interval.map(|[_, high]| high)));
        set("_detected", detected);
        return;
    }
    set(
        "",
        match value {
            Value::Missing | Value::Estimate { .. } => Json::Null,
            Value::Text(text) => json!(text),
            Value::Number(number) => self::number(*number, heading.unit),
        },
    );
}

fn number(number: f64, unit: Unit) -> Json {
    let is_whole = unit == Unit::Count && number.fract() == 0.0 && number.abs() < 2_f64.powi(53);
    match is_whole {
        true => json!(number as i64),
        false => json!(number),
    }
}
