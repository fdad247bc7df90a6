//! Which keys a query sees, by its place and its document, tested 32 at a time.

use bert4rs_tensor_core::{Error, Kind, Result, Tensor};

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
        let window =
            visible.window.map_or(i32::MAX, |window| (window - 1).min(i32::MAX as i64) as i32);
        let greatest = if visible.causal { 0 } else { window };
        Ok(Self { documents, queries, keys, least: -window, greatest })
    }

    /// Of row `row` of the batch.
    pub(super) fn of(&self, row: usize) -> RowVisibility<'_> {
        let documents = self.documents.as_ref().map(|(queries, keys)| {
            (&queries[row * self.queries..][..self.queries], &keys[row * self.keys..][..self.keys])
        });
        RowVisibility { documents, rule: self }
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

    /// The keys, in whole blocks of `block`, outside of which the queries see none.
    pub(super) fn keys_of(
        &self,
        queries: std::ops::Range<usize>,
        block: usize,
    ) -> std::ops::Range<usize> {
        let (first, end) = (queries.start, queries.end.min(self.rule.queries));
        let shift = i64::from(self.shift());
        let low = (first as i64 + shift + i64::from(self.rule.least)).max(0) as usize;
        let high = (end as i64 + shift + i64::from(self.rule.greatest)).max(0) as usize;
        let blocks = low / block..high.min(self.rule.keys).div_ceil(block);
        let Some((of_queries, of_keys)) = self.documents else {
            return blocks.start * block..blocks.end.max(blocks.start) * block;
        };
        let (least, greatest) = bounds(&of_queries[first..end]);
        let may_see = |index: &usize| {
            let (from, to) = (index * block, (index + 1) * block);
            let (low, high) = bounds(&of_keys[from..to.min(of_keys.len())]);
            low <= greatest && least <= high
        };
        let seen_first = blocks.clone().find(may_see).unwrap_or(blocks.start);
        let seen_last = blocks.rev().find(may_see).map_or(seen_first, |last| last + 1);
        seen_first * block..seen_last * block
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
