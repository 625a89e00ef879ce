//! Reading an expression, and checking that its columns and values fit together.

use super::error::{FilterError, Problem};
use super::tokens::{Placed, Token, tokens};
use super::units::{factor, is_unit};
use super::{Comparison, Expression, Operand};
use crate::report::list::names::Named;
use crate::report::table::{Heading, Unit};

/// How deeply parentheses and `not` may be nested.
const DEPTH: usize = 64;

type Result<T> = std::result::Result<T, (usize, Problem)>;

struct Parser<'a> {
    headings: &'a [&'a Heading],
    tokens: Vec<Placed>,
    next: usize,
    depth: usize,
}

/// One side of a comparison, before its unit is known.
struct Side {
    position: usize,
    kind: Kind,
}

enum Kind {
    Column(String, Named),
    Text(String),
    Number(f64, Option<String>),
    None,
}

/// The expression that `text` is.
pub(super) fn parse(
    text: &str,
    headings: &[&Heading],
) -> std::result::Result<Expression, FilterError> {
    let read = || {
        let mut parser = Parser {
            headings,
            tokens: tokens(text)?,
            next: 0,
            depth: 0,
        };
        let expression = parser.either()?;
        match parser.peek() {
            Token::End => Ok(expression),
            _ => Err(parser.unexpected("`and`, `or`, or the end")),
        }
    };
    read().map_err(|(position, problem)| FilterError {
        text: text.to_owned(),
        position,
        problem,
    })
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].token
    }

    fn position(&self) -> usize {
        self.tokens[self.next].position
    }

    /// The last token is the end, which stays.
    fn advance(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    fn unexpected(&self, expected: &'static str) -> (usize, Problem) {
        let found = self.peek().name();
        (self.position(), Problem::Unexpected { expected, found })
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.peek(), Token::Word(found) if found.eq_ignore_ascii_case(word));
        if is_it {
            self.advance();
        }
        is_it
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.peek(), Token::Sign(found) if *found == sign);
        if is_it {
            self.advance();
        }
        is_it
    }

    fn either(&mut self) -> Result<Expression> {
        let mut all = vec![self.both()?];
        while self.take_word("or") {
            all.push(self.both()?);
        }
        Ok(one_or(all, Expression::Any))
    }

    fn both(&mut self) -> Result<Expression> {
        let mut all = vec![self.negated()?];
        while self.take_word("and") {
            all.push(self.negated()?);
        }
        Ok(one_or(all, Expression::All))
    }

    fn negated(&mut self) -> Result<Expression> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err((self.position(), Problem::Depth));
        }
        let found = if self.take_word("not") {
            Expression::Not(Box::new(self.negated()?))
        } else if self.take_sign("(") {
            let inner = self.either()?;
            if !self.take_sign(")") {
                return Err(self.unexpected("`and`, `or`, or `)`"));
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(found)
    }

    fn comparison(&mut self) -> Result<Expression> {
        let left = self.side("a column, a value, `not`, or `(`")?;
        let how_position = self.position();
        if self.take_word("in") {
            return self.one_of(&left);
        }
        if self.take_word("not") {
            return match self.take_word("in") {
                true => Ok(Expression::Not(Box::new(self.one_of(&left)?))),
                false => Err(self.unexpected("`in`")),
            };
        }
        if self.take_sign("~") {
            return self.contains(left);
        }
        if self.take_sign("!~") {
            return Ok(Expression::Not(Box::new(self.contains(left)?)));
        }
        let Some(how) = self.take_comparison() else {
            return Err(self.unexpected("`==`, `!=`, `<`, `<=`, `>`, `>=`, `~`, or `in`"));
        };
        let right = self.side("a column, or a value")?;
        let is_column = |side: &Side| matches!(side.kind, Kind::Column(..));
        if !is_column(&left) && !is_column(&right) {
            return Err((how_position, Problem::NoColumn));
        }
        let (own, other) = (self.operand(&left, &right)?, self.operand(&right, &left)?);
        Ok(Expression::Compare(own, how, other))
    }

    fn take_comparison(&mut self) -> Option<Comparison> {
        let Token::Sign(sign) = self.peek() else {
            return None;
        };
        let how = match *sign {
            "==" | "=" => Comparison::Equal,
            "!=" => Comparison::Unequal,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        };
        self.advance();
        Some(how)
    }

    /// What follows `in`.
    fn one_of(&mut self, left: &Side) -> Result<Expression> {
        let Kind::Column(_, column) = left.kind else {
            return Err((left.position, Problem::NoColumn));
        };
        if !self.take_sign("(") {
            return Err(self.unexpected("`(` and a list of values"));
        }
        let mut values = Vec::new();
        loop {
            let value = self.side("a value")?;
            values.push(self.operand(&value, left)?);
            if self.take_sign(")") {
                return Ok(Expression::In(column, values));
            }
            if !self.take_sign(",") {
                return Err(self.unexpected("`,` or `)`"));
            }
        }
    }

    /// What follows `~`.
    fn contains(&mut self, left: Side) -> Result<Expression> {
        let Kind::Column(name, column) = left.kind else {
            return Err((left.position, Problem::NoColumn));
        };
        if column.is_number() {
            return Err((left.position, Problem::NotText(name)));
        }
        let Token::Text(part) = self.peek().clone() else {
            return Err(self.unexpected("a text in quotes"));
        };
        self.advance();
        Ok(Expression::Contains(column, part.to_lowercase()))
    }

    fn side(&mut self, expected: &'static str) -> Result<Side> {
        let position = self.position();
        let kind = match self.peek().clone() {
            Token::Text(text) => Kind::Text(text),
            Token::Number(number) => {
                self.advance();
                let unit = self.unit();
                return Ok(Side {
                    position,
                    kind: Kind::Number(number, unit),
                });
            }
            Token::Word(word) if word.eq_ignore_ascii_case("none") => Kind::None,
            Token::Word(word) if !is_of_the_language(&word) => {
                let column = Named::find(self.headings, &word);
                let column = column.map_err(|error| (position, Problem::UnknownColumn(error)))?;
                Kind::Column(word, column)
            }
            _ => return Err(self.unexpected(expected)),
        };
        self.advance();
        Ok(Side { position, kind })
    }

    /// The unit behind a number.
    fn unit(&mut self) -> Option<String> {
        let unit = match self.peek() {
            Token::Sign("%") => "%".to_owned(),
            Token::Word(word) if is_unit(word) => word.clone(),
            _ => return None,
        };
        self.advance();
        Some(unit)
    }

    /// `side` as it's compared with `other`.
    fn operand(&self, side: &Side, other: &Side) -> Result<Operand> {
        let kinds = |column: &str, has, with| {
            let column = column.to_owned();
            Err((side.position, Problem::Kinds { column, has, with }))
        };
        match (&side.kind, &other.kind) {
            (Kind::None, _) => Ok(Operand::None),
            (Kind::Column(name, own), Kind::Column(_, column)) => {
                match is_same(own.unit, column.unit) {
                    true => Ok(Operand::Column(*own)),
                    false => kinds(name, has(own.unit), "a column of another unit"),
                }
            }
            (Kind::Column(_, own), _) => Ok(Operand::Column(*own)),
            (Kind::Text(text), Kind::Column(name, column)) => match column.is_number() {
                false => Ok(Operand::Text(text.to_lowercase())),
                true => kinds(name, "numbers", "text"),
            },
            (Kind::Number(number, unit), Kind::Column(name, column)) => {
                if !column.is_number() {
                    return kinds(name, "text", "a number; put it in quotes");
                }
                let unit = unit.as_deref();
                let number = in_unit(name, column.unit, *number, unit);
                let number = number.map_err(|problem| (side.position, problem))?;
                Ok(Operand::Number(number))
            }
            // Somebody has to be a column.
            _ => Err((side.position, Problem::NoColumn)),
        }
    }
}

/// `number` in the unit of the column `name`.
fn in_unit(
    name: &str,
    unit: Unit,
    number: f64,
    written: Option<&str>,
) -> std::result::Result<f64, Problem> {
    match written {
        None if matches!(unit, Unit::Time(_)) && number != 0.0 => Err(Problem::NoUnit {
            column: name.to_owned(),
            number,
        }),
        None => Ok(number),
        Some(written) => match factor(unit, written) {
            Ok(factor) => Ok(number * factor),
            Err(takes) => Err(Problem::Unit {
                column: name.to_owned(),
                unit: written.to_owned(),
                takes,
            }),
        },
    }
}

/// Whether values of the one can be compared with those of the other.
fn is_same(one: Unit, other: Unit) -> bool {
    let is_text = |unit| matches!(unit, Unit::Name | Unit::Text);
    one.symbol() == other.symbol() && is_text(one) == is_text(other)
}

fn has(unit: Unit) -> &'static str {
    match unit {
        Unit::Name | Unit::Text => "text",
        Unit::Time(_) => "times",
        Unit::Percent | Unit::PercentWithInterval => "percentages",
        Unit::Mebibytes => "sizes",
        Unit::Joules => "energies",
        Unit::Count | Unit::PerSecond | Unit::Ratio | Unit::Score => "numbers",
    }
}

fn is_of_the_language(word: &str) -> bool {
    let words = ["and", "or", "not", "in"];
    words.iter().any(|own| word.eq_ignore_ascii_case(own))
}

fn one_or(mut all: Vec<Expression>, of: fn(Vec<Expression>) -> Expression) -> Expression {
    match all.len() {
        1 => all.remove(0),
        _ => of(all),
    }
}
