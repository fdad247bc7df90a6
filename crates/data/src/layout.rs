//! How the pieces of documents lie in the rows of a batch.

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// How pieces lie in rows. A batch holds the same pieces either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The pieces of a sequence share a row, side by side.
    Packed,
    /// Each piece has a row of its own, filled up with padding: there are more rows.
    Padded,
}

/// What padding counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// A piece of its own, which no other sees.
    Apart,
    /// The end of the last piece: for rows in which nothing sees what is later.
    WithLast,
}

/// Rows of tokens, filled piece by piece. Flattened, so that position `c` of row `r` is number
/// `r · columns + c`.
#[derive(Debug)]
pub(crate) struct Grid {
    layout: Layout,
    padding: Padding,
    pad: i64,
    /// Pieces in the row that is being filled.
    pieces: i64,
    /// Positions of a row.
    pub(crate) columns: usize,
    /// Rows that are full.
    pub(crate) rows: usize,
    /// Tokens.
    pub(crate) ids: Vec<i64>,
    /// Position of each token within its piece.
    pub(crate) positions: Vec<i64>,
    /// Number of each token's piece within its row, from 0.
    pub(crate) documents: Vec<i64>,
    /// Positions that are not padding.
    pub(crate) real: usize,
}

impl Grid {
    /// A grid without rows; `pad` is what fills them up.
    pub(crate) fn new(layout: Layout, padding: Padding, columns: usize, pad: i64) -> Self {
        let (ids, positions, documents) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            layout,
            padding,
            pad,
            pieces: 0,
            columns,
            rows: 0,
            ids,
            positions,
            documents,
            real: 0,
        }
    }

    /// Appends a piece of `length` tokens, which `write` fills in, all of them 0 before.
    ///
    /// # Errors
    /// What `write` answers.
    pub(crate) fn push_piece(
        &mut self,
        length: usize,
        write: impl FnOnce(&mut [i64]) -> Result<()>,
    ) -> Result<()> {
        let start = self.ids.len();
        self.ids.resize(start + length, 0);
        write(&mut self.ids[start..])?;
        self.positions.extend(0..length as i64);
        self.documents.resize(start + length, self.pieces);
        self.pieces += 1;
        self.real += length;
        if self.layout == Layout::Padded {
            self.end_row();
        }
        Ok(())
    }

    /// Ends a sequence, whose pieces share a row where the layout is packed.
    pub(crate) fn end_sequence(&mut self) {
        if self.layout == Layout::Packed {
            self.end_row();
        }
    }

    fn end_row(&mut self) {
        self.rows += 1;
        let end = self.rows * self.columns;
        let padding = end - self.ids.len();
        let number = match self.padding {
            Padding::Apart => self.pieces,
            Padding::WithLast => self.pieces - 1,
        };
        self.ids.resize(end, self.pad);
        self.positions.extend(0..padding as i64);
        self.documents.resize(end, number);
        self.pieces = 0;
    }
}
