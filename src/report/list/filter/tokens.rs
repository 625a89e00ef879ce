//! An expression's words and signs.

use super::error::Problem;

/// A word, a sign or a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A column, a word of the language, or a unit.
    Word(String),
    Text(String),
    Number(f64),
    /// `==`, `(` and so on.
    Sign(&'static str),
    End,
}

/// A token, and its place in characters from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    pub position: usize,
    pub token: Token,
}

/// The longer ones first, since they begin with the shorter.
const SIGNS: [&str; 13] = [
    "==", "!=", "<=", ">=", "!~", "<", ">", "~", "=", "(", ")", ",", "%",
];

impl Token {
    /// What it's called in an error.
    pub fn name(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Text(text) => format!("the text \"{text}\""),
            Self::Number(number) => format!("the number {number}"),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

/// The tokens of `text`, [`Token::End`] the last.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, (usize, Problem)> {
    let characters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut place = 0;
    while let Some(&first) = characters.get(place) {
        if first.is_whitespace() {
            place += 1;
            continue;
        }
        let rest = &characters[place..];
        let read = match first {
            '"' | '\'' => quoted(rest, first),
            _ if is_digit_or_sign(rest) => number(rest),
            _ if is_of_word(first) => Ok(word(rest)),
            _ => sign(rest),
        };
        let (token, length) = read.map_err(|problem| (place + 1, problem))?;
        found.push(Placed {
            position: place + 1,
            token,
        });
        place += length;
    }
    found.push(Placed {
        position: characters.len() + 1,
        token: Token::End,
    });
    Ok(found)
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether a number begins here.
fn is_digit_or_sign(rest: &[char]) -> bool {
    let is_digit = |place: usize| rest.get(place).is_some_and(char::is_ascii_digit);
    match rest[0] {
        '-' | '+' => is_digit(1) || (rest.get(1) == Some(&'.') && is_digit(2)),
        '.' => is_digit(1),
        _ => is_digit(0),
    }
}

/// Up to the same quote; a backslash takes the next character as it is.
fn quoted(rest: &[char], quote: char) -> Result<(Token, usize), Problem> {
    let mut text = String::new();
    let mut place = 1;
    while let Some(&character) = rest.get(place) {
        match character {
            _ if character == quote => return Ok((Token::Text(text), place + 1)),
            '\\' => {
                text.extend(rest.get(place + 1));
                place += 2;
            }
            _ => {
                text.push(character);
                place += 1;
            }
        }
    }
    Err(Problem::OpenText(quote))
}

fn number(rest: &[char]) -> Result<(Token, usize), Problem> {
    let is_part = |place: usize| match rest.get(place) {
        Some('0'..='9' | '.') => true,
        Some('+' | '-') => place == 0 || is_exponent(rest, place - 1),
        Some('e' | 'E') => is_exponent(rest, place),
        _ => false,
    };
    let length = (0..).take_while(|&place| is_part(place)).count();
    let text: String = rest[..length].iter().collect();
    let number = text.parse::<f64>().ok().filter(|of| of.is_finite());
    let number = number.ok_or(Problem::Number(text))?;
    Ok((Token::Number(number), length))
}

/// Whether the `e` at `place` is followed by an exponent's digits.
fn is_exponent(rest: &[char], place: usize) -> bool {
    let is_digit = |place: usize| rest.get(place).is_some_and(char::is_ascii_digit);
    let is_sign = matches!(rest.get(place + 1), Some('+' | '-'));
    matches!(rest.get(place), Some('e' | 'E'))
        && (is_digit(place + 1) || (is_sign && is_digit(place + 2)))
}

fn word(rest: &[char]) -> (Token, usize) {
    let word: String = rest
        .iter()
        .take_while(|character| is_of_word(**character))
        .collect();
    let length = word.chars().count();
    (Token::Word(word), length)
}

fn sign(rest: &[char]) -> Result<(Token, usize), Problem> {
    let begins = |sign: &&str| {
        let mut places = sign.chars().enumerate();
        places.all(|(place, character)| rest.get(place) == Some(&character))
    };
    let found = SIGNS.into_iter().find(begins);
    let found = found.ok_or(Problem::Character(rest[0]))?;
    Ok((Token::Sign(found), found.len()))
}
