//! Many overheads at once: of sixty experiments none of which is slower, one or another has an
//! interval above the margin by chance.
//!
//! The intervals stay those of each by itself. Which of them count as worse follows Holm ("A simple
//! sequentially rejective multiple test procedure", 1979): the probability that one does by mistake
//! is then at most 2.5 %, however many there are. "No worse" needs no correction, since the whole
//! is no worse only if each of them is.

use super::figure::{Figure, Outcome};
use crate::measure::stats::holm;

/// The probability of a mistake, to one side.
const LEVEL: f64 = 0.025;

/// Takes "worse" back from overheads that aren't so with all of them in view.
pub(super) fn decide(figures: Vec<&mut Figure>, margin: f64) {
    let (probabilities, tested): (Vec<f64>, Vec<&mut Figure>) = figures
        .into_iter()
        .filter(|figure| figure.decides)
        .filter_map(|figure| {
            let shift = figure.shift.filter(|shift| shift.enough())?;
            Some((shift.p_above(margin)?, figure))
        })
        .unzip();
    let count = tested.len();
    for (figure, p) in tested.into_iter().zip(holm(&probabilities)) {
        figure.p_corrected = Some(p);
        if figure.outcome == Outcome::Worse && p >= LEVEL {
            figure.outcome = Outcome::CannotTell;
            figure.note = Some(format!("worse by itself, but not as one of {count}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::figure::{Kind, Unit};
    use crate::measure::stats::shift;

    /// An overhead that is `log` more, in ratios that differ by a percent.
    fn figure(log: f64) -> Figure {
        let side = |log: f64| {
            let ratios = (0..8).map(|index| log + 0.01 * f64::from(index % 4));
            vec![vec![ratios.collect()]]
        };
        let shift = shift(&side(0.0), &side(log), 1).unwrap();
        let outcome = match shift.interval.unwrap()[0] > 0.03 {
            true => Outcome::Worse,
            false => Outcome::CannotTell,
        };
        Figure {
            outcome,
            shift: Some(shift),
            ..Figure::new("", Kind::Overhead, Unit::Percent)
        }
    }

    #[test]
    fn one_of_many_must_be_worse_by_more() {
        let mut alone = figure(0.051);
        assert_eq!(alone.outcome, Outcome::Worse);
        decide(vec![&mut alone], 0.03);
        assert_eq!(alone.outcome, Outcome::Worse);

        let mut many: Vec<Figure> = (0..60).map(|_| figure(0.0)).collect();
        many.push(figure(0.051));
        many.push(figure(0.5));
        decide(many.iter_mut().collect(), 0.03);
        assert_eq!(many[60].outcome, Outcome::CannotTell);
        assert_eq!(
            many[60].note.as_deref(),
            Some("worse by itself, but not as one of 62")
        );
        assert_eq!(many[61].outcome, Outcome::Worse);
    }

    #[test]
    fn what_decides_nothing_is_not_counted() {
        let mut figures: Vec<Figure> = (0..60).map(|_| figure(0.0)).collect();
        for figure in &mut figures {
            figure.decides = false;
        }
        figures.push(figure(0.051));
        decide(figures.iter_mut().collect(), 0.03);
        assert_eq!(figures[60].outcome, Outcome::Worse);
        assert_eq!(figures[0].p_corrected, None);
    }
}
