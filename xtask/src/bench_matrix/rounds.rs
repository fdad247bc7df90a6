//! Which row is measured when: rounds over all rows, so that what changes with time, such as a
//! processor that grows hot, meets every row alike.

use std::time::Duration;

use super::measurement::Measurement;
use crate::error::Result;

/// What became of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowResult {
    /// One for each round that was done; `None` where the row failed.
    pub(crate) rounds: Vec<Option<Measurement>>,
    /// The first failure. The row is left out of later rounds.
    pub(crate) error: Option<String>,
}

/// One measurement, and how long it took; nothing if it was kept from an earlier command.
pub(crate) struct Measured {
    pub(crate) outcome: std::result::Result<Measurement, String>,
    pub(crate) took: Duration,
}

/// Does up to `rounds` rounds over `rows` rows by calling `measure(row, round)`.
///
/// After the first round, one that would pass `limit`, judged by the last, is not begun. The first
/// is no measure for the rest: it alone compiles.
pub(crate) fn run_rounds(
    rows: usize,
    rounds: u32,
    limit: Option<Duration>,
    mut measure: impl FnMut(usize, u32) -> Result<Measured>,
) -> Result<Vec<RowResult>> {
    let mut results = vec![RowResult { rounds: Vec::new(), error: None }; rows];
    let (mut spent, mut last) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        if round > 0 && limit.is_some_and(|limit| spent + last > limit) {
            break;
        }
        let mut took = Duration::ZERO;
        for (row, result) in results.iter_mut().enumerate() {
            if result.error.is_some() {
                result.rounds.push(None);
                continue;
            }
            let measured = measure(row, round)?;
            took += measured.took;
            match measured.outcome {
                Ok(measurement) => result.rounds.push(Some(measurement)),
                Err(error) => {
                    result.rounds.push(None);
                    result.error = Some(error);
                }
            }
        }
        spent += took;
        last = took;
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement() -> Measurement {
        let summary = "{\"tokens\":1,\"steps\":1,\"time_to_first_step_s\":1.0,\
                       \"final_loss\":null,\"peak_memory_bytes\":1}";
        Measurement { steps: Vec::new(), summary: serde_json::from_str(summary).unwrap() }
    }

    fn order(limit_s: Option<u64>, fails: impl Fn(usize, u32) -> bool) -> (String, Vec<RowResult>) {
        let mut order = String::new();
        let limit = limit_s.map(Duration::from_secs);
        let results = run_rounds(3, 3, limit, |row, round| {
            order += &format!("{round}{row} ");
            let outcome =
                if fails(row, round) { Err(format!("row {row}")) } else { Ok(measurement()) };
            Ok(Measured { outcome, took: Duration::from_secs(10) })
        });
        (order.trim_end().to_owned(), results.unwrap())
    }

    #[test]
    fn rounds_go_over_all_rows() {
        let (order, results) = order(None, |_, _| false);
        assert_eq!(order, "00 01 02 10 11 12 20 21 22");
        assert!(results.iter().all(|row| row.error.is_none() && row.rounds.len() == 3));
    }

    #[test]
    fn a_row_that_fails_is_left_out_and_the_rest_go_on() {
        let (order, results) = order(None, |row, round| row == 1 && round == 1);
        assert_eq!(order, "00 01 02 10 11 12 20 22");
        assert_eq!(results[1].error.as_deref(), Some("row 1"));
        let there: Vec<_> = results[1].rounds.iter().map(Option::is_some).collect();
        assert_eq!(there, [true, false, false]);
    }

    #[test]
    fn a_round_that_would_pass_the_limit_is_not_begun() {
        assert_eq!(order(Some(65), |_, _| false).0, "00 01 02 10 11 12");
        assert_eq!(order(Some(5), |_, _| false).0, "00 01 02", "one is always done");
    }
}
