//! Which keys a query sees, by its place and its document, tested 32 at a time.

use std::ops::Range;

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

/// Queries from which on a row is cut between documents.
const SEGMENT: usize = 512;

/// Queries and keys of a row that are computed apart from all others.
///
/// Rows of short documents are cut into segments of about [`SEGMENT`]: what a head holds then
/// stays in the second-level cache, however long the row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The row of the batch.
    pub(super) row: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

/// The numbers of a [`VisibleKeys`], for one call.
#[derive(Debug, Clone)]
pub(super) struct VisibilityRule {
    /// Of queries and of keys, row by row of the batch.
    documents: Option<(Vec<i32>, Vec<i32>)>,
    segments: Vec<Segment>,
    /// Of the documents of keys, one a segment.
    blocks: Vec<BlockBounds>,
    queries: usize,
    keys: usize,
    /// The least and the greatest `key - query - (keys - queries)` that is visible.
    least: i32,
    greatest: i32,
}

impl VisibilityRule {
    /// Rows are cut if `can_cut`.
    ///
    /// # Errors
    /// Documents of another shape or dtype, or with numbers beyond 32 bits.
    pub(super) fn new(
        visible: &VisibleKeys,
        [batch, queries, keys]: [usize; 3],
        can_cut: bool,
    ) -> Result<Self> {
        let documents = match visible.documents {
            None => None,
            Some((of_queries, of_keys)) => {
                Some((numbers(of_queries, [batch, queries])?, numbers(of_keys, [batch, keys])?))
            }
        };
        let window =
            visible.window.map_or(i32::MAX, |window| (window - 1).min(i32::MAX as i64) as i32);
        let greatest = if visible.causal { 0 } else { window };
        let (segments, blocks) = (Vec::new(), Vec::new());
        let mut rule =
            Self { documents, segments, blocks, queries, keys, least: -window, greatest };
        rule.segments = (0..batch).flat_map(|row| rule.segments_of(row, can_cut)).collect();
        let bounds_of =
            |segment| rule.documents_of(segment).map(|(_, keys)| BlockBounds::new(keys));
        rule.blocks = rule.segments.iter().filter_map(bounds_of).collect();
        Ok(rule)
    }

    /// The row whole, or cut where queries and keys are of the same documents.
    fn segments_of(&self, row: usize, can_cut: bool) -> Vec<Segment> {
        let whole = Segment { row, queries: 0..self.queries, keys: 0..self.keys };
        match self.documents_of(&whole) {
            Some((queries, keys)) if can_cut && queries == keys => {
                let segment =
                    |part: Range<usize>| Segment { row, queries: part.clone(), keys: part };
                parts(keys).into_iter().map(segment).collect()
            }
            _ => vec![whole],
        }
    }

    fn documents_of(&self, segment: &Segment) -> Option<(&[i32], &[i32])> {
        let Segment { row, queries, keys } = segment;
        self.documents.as_ref().map(|(of_queries, of_keys)| {
            let of_queries = &of_queries[row * self.queries..][..self.queries];
            let of_keys = &of_keys[row * self.keys..][..self.keys];
            (&of_queries[queries.clone()], &of_keys[keys.clone()])
        })
    }

    /// The parts of the work that share nothing.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Of the segment with this number; queries and keys are counted from its start.
    pub(super) fn of(&self, segment: usize) -> RowVisibility<'_> {
        let Segment { queries, keys, .. } = &self.segments[segment];
        RowVisibility {
            documents: self.documents_of(&self.segments[segment]),
            blocks: self.blocks.get(segment),
            queries: queries.len(),
            keys: keys.len(),
            least: self.least,
            greatest: self.greatest,
        }
    }
}

/// Parts of a row, the last one aside of at least [`SEGMENT`] places, between which no document
/// goes on.
fn parts(documents: &[i32]) -> Vec<Range<usize>> {
    let mut least_from_here = documents.to_vec();
    for place in (1..documents.len()).rev() {
        least_from_here[place - 1] = least_from_here[place - 1].min(least_from_here[place]);
    }
    let (mut parts, mut start, mut greatest) = (Vec::new(), 0, i32::MIN);
    for (place, &document) in documents.iter().enumerate() {
        if place - start >= SEGMENT && greatest < least_from_here[place] {
            parts.push(start..place);
            start = place;
        }
        greatest = greatest.max(document);
    }
    parts.push(start..documents.len());
    parts
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
    fn of_documents(&self, (least, greatest): (i32, i32)) -> Range<usize> {
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

/// A [`VisibilityRule`] for one segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowVisibility<'a> {
    documents: Option<(&'a [i32], &'a [i32])>,
    blocks: Option<&'a BlockBounds>,
    queries: usize,
    keys: usize,
    least: i32,
    greatest: i32,
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
    /// How many keys there are.
    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// Whether every query sees every key, so that nothing need be tested.
    pub(super) fn sees_all(&self) -> bool {
        let reach = self.keys.max(self.queries) as i32;
        self.documents.is_none() && self.least <= -reach && self.greatest >= reach
    }

    fn shift(&self) -> i32 {
        self.keys as i32 - self.queries as i32
    }

    /// For 32 columns from `first` on.
    pub(super) fn test(&self, columns: Columns, first: usize) -> ColumnTest {
        let (shift, length) = match columns {
            Columns::Keys => (0, self.keys),
            Columns::Queries => (self.shift(), self.queries),
        };
        let documents = self.documents.map_or([0; COLS], |(queries, keys)| {
            let of = if columns == Columns::Keys { keys } else { queries };
            std::array::from_fn(|i| of[(first + i).min(length - 1)])
        });
        ColumnTest {
            documents,
            places: std::array::from_fn(|i| (first + i) as i32 + shift),
            columns,
            least: self.least,
            greatest: self.greatest,
            last: length as i32 - 1 + shift,
        }
    }

    /// The document and the place of a query, for [`ColumnTest::sees`].
    pub(super) fn query(&self, index: usize) -> (i32, i32) {
        let index = index.min(self.queries - 1);
        let document = self.documents.map_or(0, |(queries, _)| queries[index]);
        (document, index as i32 + self.shift())
    }

    /// The document and the place of a key, for [`ColumnTest::sees`].
    pub(super) fn key(&self, index: usize) -> (i32, i32) {
        (self.documents.map_or(0, |(_, keys)| keys[index]), index as i32)
    }

    /// The keys, in whole blocks, outside of which the queries see none. The time that it takes
    /// does not grow with the row, but by its logarithm.
    pub(super) fn keys_of(&self, queries: Range<usize>) -> Range<usize> {
        let (first, end) = (queries.start, queries.end.min(self.queries));
        let shift = i64::from(self.shift());
        let low = (first as i64 + shift + i64::from(self.least)).max(0) as usize;
        let high = (end as i64 + shift + i64::from(self.greatest)).max(0) as usize;
        let (mut from, mut to) = (low / KEYS, high.min(self.keys).div_ceil(KEYS));
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
        let rule = VisibilityRule::new(&visible, [1, n, n], false).unwrap();
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
    fn long_rows_are_cut_where_no_document_goes_on() {
        let cut = |documents: &[i64], can_cut| {
            let n = documents.len();
            let tensor = Tensor::from_slice(documents).view([1, n as i64]);
            let documents = Some((&tensor, &tensor));
            let visible = VisibleKeys { documents, ..VisibleKeys::default() };
            let rule = VisibilityRule::new(&visible, [1, n, n], can_cut).unwrap();
            let ends = rule.segments().iter().map(|segment| (segment.keys.start, segment.keys.end));
            ends.collect::<Vec<_>>()
        };
        let packed: Vec<i64> = (0..1500).map(|i| i / 150).collect();
        assert_eq!(cut(&packed, true), [(0, 600), (600, 1200), (1200, 1500)]);
        assert_eq!(cut(&packed, false), [(0, 1500)]);
        // One document around all others.
        let around: Vec<i64> = (0..1500).map(|i| if i % 1499 == 0 { 0 } else { i / 150 }).collect();
        assert_eq!(cut(&around, true), [(0, 1500)]);
        assert_eq!(cut(&packed[..512], true), [(0, 512)]);
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
