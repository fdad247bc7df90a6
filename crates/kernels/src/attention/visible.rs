//! Which keys a query sees, by its place and its document, tested 32 at a time.

use bert4rs_tensor_core::{Error, Kind, Result, Tensor};

use super::KEYS;
use crate::cpu::lanes::Lanes;
use crate::cpu::product::COLS;
use crate::cpu::views;

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, Default)]
pub struct VisibleKeys<'a> {
    /// The document of each query, I64 `[b, t]`, and of each key, `[b, s]`: a query sees its own
    /// document alone. All are one document if absent.
    pub documents: Option<(&'a Tensor, &'a Tensor)>,
    /// Not keys that come later. Of fewer queries than keys, queries are the last.
    pub causal: bool,
    /// Not keys at a distance of this many places or more.
    pub window: Option<i64>,
}

/// The numbers of a [`VisibleKeys`], for one call.
#[derive(Debug, Clone)]
pub(super) struct VisibilityRule {
    /// Of queries and of keys, row by row of the batch.
    documents: Option<(Vec<i32>, Vec<i32>)>,
    /// Of the documents of keys, row by row of the batch.
    blocks: Vec<BlockBounds>,
    queries: usize,
    keys: usize,
    /// The least and the greatest `key - query - (keys - queries)` that is visible.
    least: i32,
    greatest: i32,
}

impl VisibilityRule {
    /// # Errors
    /// Documents of another shape or dtype, or with numbers beyond 32 bits.
    pub(super) fn new(
        visible: &VisibleKeys,
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self> {
        let documents = match visible.documents {
            None => None,
            Some((of_queries, of_keys)) => {
                Some((numbers(of_queries, [batch, queries])?, numbers(of_keys, [batch, keys])?))
            }
        };
        let of_row = |(_, keys_of): &(_, Vec<i32>)| {
            keys_of.chunks(keys.max(1)).map(BlockBounds::new).collect()
        };
        let blocks = documents.as_ref().map(of_row).unwrap_or_default();
        let window =
            visible.window.map_or(i32::MAX, |window| (window - 1).min(i32::MAX as i64) as i32);
        let greatest = if visible.causal { 0 } else { window };
        Ok(Self { documents, blocks, queries, keys, least: -window, greatest })
    }

    /// Of row `row` of the batch.
    pub(super) fn of(&self, row: usize) -> RowVisibility<'_> {
        let documents = self.documents.as_ref().map(|(queries, keys)| {
            (&queries[row * self.queries..][..self.queries], &keys[row * self.keys..][..self.keys])
        });
        RowVisibility { documents, blocks: self.blocks.get(row), rule: self }
    }
}

/// Documents in the blocks of keys of one row, in a form in which those that a query may see are
/// found by bisection: where documents follow each other, as packed rows have them, exactly; where
/// they do not, with blocks between that it does not see.
#[derive(Debug, Clone)]
struct BlockBounds {
    /// The greatest number up to the end of each block.
    greatest_so_far: Vec<i32>,
    /// The least number from the start of each block on.
    least_from_here: Vec<i32>,
}

impl BlockBounds {
    fn new(of_keys: &[i32]) -> Self {
        let of_blocks: Vec<(i32, i32)> = of_keys.chunks(KEYS).map(bounds).collect();
        let up = of_blocks.iter().scan(i32::MIN, |most, (_, greatest)| {
            *most = (*most).max(*greatest);
            Some(*most)
        });
        let down = of_blocks.iter().rev().scan(i32::MAX, |fewest, (least, _)| {
            *fewest = (*fewest).min(*least);
            Some(*fewest)
        });
        let (greatest_so_far, mut least_from_here) = (up.collect(), down.collect::<Vec<_>>());
        least_from_here.reverse();
        Self { greatest_so_far, least_from_here }
    }

    /// The blocks that hold all keys of the documents `least` to `greatest`.
    fn of_documents(&self, (least, greatest): (i32, i32)) -> std::ops::Range<usize> {
        let first = self.greatest_so_far.partition_point(|&most| most < least);
        let end = self.least_from_here.partition_point(|&fewest| fewest <= greatest);
        first..end.max(first)
    }
}

fn numbers(documents: &Tensor, shape: [usize; 2]) -> Result<Vec<i32>> {
    let op = "attention within documents";
    if documents.size() != shape.map(|extent| extent as i64) || documents.kind() != Kind::Int64 {
        return Err(Error::Shape {
            op,
            tensor: "document numbers",
            found: documents.size(),
            expected: format!("{shape:?} of Int64"),
        });
    }
    let dense = documents.contiguous();
    let refuse = |_| Error::Unsupported {
        what: op.into(),
        reason: "a document's number does not fit 32 bits; count documents from 0".into(),
    };
    views::read::<i64>(&dense, "document numbers")?
        .iter()
        .map(|&number| i32::try_from(number).map_err(refuse))
        .collect()
}

/// A [`VisibilityRule`] for one row of the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowVisibility<'a> {
    documents: Option<(&'a [i32], &'a [i32])>,
    blocks: Option<&'a BlockBounds>,
    rule: &'a VisibilityRule,
}

/// Which axis runs along the columns of a block of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    Keys,
    Queries,
}

/// What 32 columns are tested by.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnTest {
    documents: [i32; COLS],
    /// The place of each column, queries' moved on to the key at the same place.
    places: [i32; COLS],
    columns: Columns,
    least: i32,
    greatest: i32,
    /// The place of the last column that exists.
    last: i32,
}

impl RowVisibility<'_> {
    /// Whether every query sees every key, so that nothing need be tested.
    pub(super) fn sees_all(&self) -> bool {
        let reach = self.rule.keys.max(self.rule.queries) as i32;
        self.documents.is_none() && self.rule.least <= -reach && self.rule.greatest >= reach
    }

    fn shift(&self) -> i32 {
        self.rule.keys as i32 - self.rule.queries as i32
    }

    /// For 32 columns from `first` on.
    pub(super) fn test(&self, columns: Columns, first: usize) -> ColumnTest {
        let (shift, length) = match columns {
            Columns::Keys => (0, self.rule.keys),
            Columns::Queries => (self.shift(), self.rule.queries),
        };
        let documents = self.documents.map_or([0; COLS], |(queries, keys)| {
            let of = if columns == Columns::Keys { keys } else { queries };
            std::array::from_fn(|i| of[(first + i).min(length - 1)])
        });
        ColumnTest {
            documents,
            places: std::array::from_fn(|i| (first + i) as i32 + shift),
            columns,
            least: self.rule.least,
            greatest: self.rule.greatest,
            last: length as i32 - 1 + shift,
        }
    }

    /// The document and the place of a query, for [`ColumnTest::sees`].
    pub(super) fn query(&self, index: usize) -> (i32, i32) {
        let index = index.min(self.rule.queries - 1);
        let document = self.documents.map_or(0, |(queries, _)| queries[index]);
        (document, index as i32 + self.shift())
    }

    /// The document and the place of a key, for [`ColumnTest::sees`].
    pub(super) fn key(&self, index: usize) -> (i32, i32) {
        (self.documents.map_or(0, |(_, keys)| keys[index]), index as i32)
    }

    /// The keys, in whole blocks, outside of which the queries see none. The time that it takes
    /// does not grow with the row, but by its logarithm.
    pub(super) fn keys_of(&self, queries: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let (first, end) = (queries.start, queries.end.min(self.rule.queries));
        let shift = i64::from(self.shift());
        let low = (first as i64 + shift + i64::from(self.rule.least)).max(0) as usize;
        let high = (end as i64 + shift + i64::from(self.rule.greatest)).max(0) as usize;
        let (mut from, mut to) = (low / KEYS, high.min(self.rule.keys).div_ceil(KEYS));
        if let (Some((of_queries, _)), Some(blocks)) = (self.documents, self.blocks) {
            let seen = blocks.of_documents(bounds(&of_queries[first..end]));
            (from, to) = (from.max(seen.start), to.min(seen.end));
        }
        from * KEYS..to.max(from) * KEYS
    }
}

/// The least and the greatest.
fn bounds(numbers: &[i32]) -> (i32, i32) {
    numbers.iter().fold((i32::MAX, i32::MIN), |(least, greatest), &number| {
        (least.min(number), greatest.max(number))
    })
}

impl ColumnTest {
    /// Where a query and a key of a row and of 16 columns from `column` on see each other.
    #[inline(always)]
    pub(super) fn sees<V: Lanes>(&self, (document, place): (i32, i32), column: usize) -> V::Mask {
        let same = V::between(&self.documents[column..], document, document);
        let (least, greatest) = match self.columns {
            Columns::Keys => {
                (place.saturating_add(self.least), place.saturating_add(self.greatest))
            }
            Columns::Queries => {
                (place.saturating_sub(self.greatest), place.saturating_sub(self.least))
            }
        };
        let near = V::between(&self.places[column..], least, greatest.min(self.last));
        V::both(same, near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that some query of each block of 32 sees, by comparing all pairs.
    fn check(documents: &[i64], causal: bool, window: Option<i64>, is_tight: bool) {
        let n = documents.len();
        let tensor = Tensor::from_slice(documents).view([1, n as i64]);
        let visible = VisibleKeys { documents: Some((&tensor, &tensor)), causal, window };
        let rule = VisibilityRule::new(&visible, 1, n, n).unwrap();
        let sees = |query: usize, key: usize| {
            let back = query as i64 - key as i64;
            documents[query] == documents[key]
                && (!causal || back >= 0)
                && window.is_none_or(|window| back.abs() < window)
        };
        for first in (0..n).step_by(32) {
            let queries = first..n.min(first + 32);
            let found = rule.of(0).keys_of(queries.clone());
            let seen: Vec<usize> =
                (0..n).filter(|&key| queries.clone().any(|query| sees(query, key))).collect();
            assert!(seen.iter().all(|key| found.contains(key)), "{first}: {found:?}");
            if is_tight {
                let last = seen[seen.len() - 1];
                assert_eq!(found, seen[0] / KEYS * KEYS..(last / KEYS + 1) * KEYS, "{first}");
            }
        }
    }

    #[test]
    fn blocks_hold_all_keys_that_are_seen_and_of_packed_rows_no_others() {
        let packed: Vec<i64> = (0..1000).map(|i| i / 137).collect();
        let mixed: Vec<i64> = (0..1000).map(|i| i * 7919 % 11).collect();
        for (causal, window) in [(false, None), (true, None), (false, Some(17)), (true, Some(90))] {
            check(&packed, causal, window, true);
            check(&mixed, causal, window, false);
        }
    }
}
