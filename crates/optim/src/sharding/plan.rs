//! Which rank owns which values: whole matrices by the work of their polar factors, and slices of
//! the rest so that all ranks own equally many.

use std::ops::Range;

/// A range of one parameter's values, in the order of memory, that one rank owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The parameter's place.
    pub param: usize,
    /// Which of its values.
    pub values: Range<i64>,
    /// The matrix that they are, `[rows, cols]`, if Muon updates them.
    pub matrix: Option<[i64; 2]>,
}

impl Piece {
    /// How many values.
    pub fn count(&self) -> i64 {
        self.values.end - self.values.start
    }
}

/// The owners of all values, the same on every rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlan {
    /// For each rank, what it owns.
    segments: Vec<Vec<Piece>>,
    segment_values: i64,
}

/// What a rank has been given so far.
#[derive(Debug, Clone, Default)]
struct Share {
    pieces: Vec<Piece>,
    flops: f64,
    values: i64,
}

impl ShardPlan {
    /// Shares `matrices`, which stay whole, and `rest`, which may be cut anywhere, among `ranks`.
    ///
    /// Matrices go to the rank with the least work so far, those with the most work first
    /// ("longest processing time"). Equal matrices come one after another, so that each rank gets
    /// as many of them as any other and can still stack them.
    pub fn new(matrices: Vec<Piece>, rest: &[Piece], ranks: usize) -> Self {
        let mut shares = vec![Share::default(); ranks];
        for matrix in sorted_by_work(matrices) {
            let least = |left: &&mut Share, right: &&mut Share| {
                left.flops.total_cmp(&right.flops).then(left.values.cmp(&right.values))
            };
            if let Some(share) = shares.iter_mut().min_by(least) {
                share.flops += polar_flops(&matrix);
                share.values += matrix.count();
                share.pieces.push(matrix);
            }
        }
        let rest_values: i64 = rest.iter().map(Piece::count).sum();
        let whole: i64 = shares.iter().map(|share| share.values).sum();
        let even = (whole + rest_values + ranks as i64 - 1) / ranks.max(1) as i64;
        let segment_values = shares.iter().map(|share| share.values).fold(even, i64::max);
        fill(&mut shares, rest, segment_values);
        let segments = shares.into_iter().map(|share| in_order(share.pieces)).collect();
        Self { segments, segment_values }
    }

    /// What `rank` owns.
    pub fn segment(&self, rank: usize) -> &[Piece] {
        &self.segments[rank]
    }

    /// What each rank owns.
    pub fn segments(&self) -> &[Vec<Piece>] {
        &self.segments
    }

    /// How long a rank's segment is, padding at its end included: equal for all.
    pub fn segment_values(&self) -> i64 {
        self.segment_values
    }

    /// The largest work on polar factors of a rank over the mean: 1 where it is even.
    pub fn imbalance(&self) -> f64 {
        let work = |pieces: &Vec<Piece>| pieces.iter().map(polar_flops).sum::<f64>();
        let work: Vec<f64> = self.segments.iter().map(work).collect();
        let total: f64 = work.iter().sum();
        if total == 0.0 {
            return 1.0;
        }
        work.iter().copied().fold(0.0, f64::max) * work.len() as f64 / total
    }
}

/// Floating-point operations of one step of a matrix's polar factor, up to a constant factor: of
/// `n` rows and `m ≥ n` columns, two products with the `n × n` Gram matrix and its square.
fn polar_flops(piece: &Piece) -> f64 {
    let Some([rows, cols]) = piece.matrix else { return 0.0 };
    let (n, m) = (rows.min(cols) as f64, rows.max(cols) as f64);
    4.0 * n * n * m + 2.0 * n * n * n
}

fn sorted_by_work(mut matrices: Vec<Piece>) -> Vec<Piece> {
    let sides = |piece: &Piece| piece.matrix.map(|[rows, cols]| (rows.min(cols), rows.max(cols)));
    matrices.sort_by(|left, right| {
        let work = polar_flops(right).total_cmp(&polar_flops(left));
        work.then(sides(right).cmp(&sides(left))).then_with(|| place(left).cmp(&place(right)))
    });
    matrices
}

/// Cuts `rest` into pieces that fill each share up to `values`.
fn fill(shares: &mut [Share], rest: &[Piece], values: i64) {
    let mut shares = shares.iter_mut();
    let mut share = shares.next();
    for piece in rest {
        let mut start = piece.values.start;
        while start < piece.values.end {
            let Some(current) = share.as_mut() else { return };
            let count = (values - current.values).min(piece.values.end - start);
            if count == 0 {
                share = shares.next();
                continue;
            }
            let values = start..start + count;
            current.pieces.push(Piece { param: piece.param, values, matrix: None });
            current.values += count;
            start += count;
        }
    }
}

fn in_order(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(place);
    pieces
}

/// Where a piece stands among all values.
fn place(piece: &Piece) -> (usize, i64) {
    (piece.param, piece.values.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrices(shapes: &[[i64; 2]]) -> Vec<Piece> {
        let piece = |(param, [rows, cols]): (usize, &[i64; 2])| Piece {
            param,
            values: 0..rows * cols,
            matrix: Some([*rows, *cols]),
        };
        shapes.iter().enumerate().map(piece).collect()
    }

    fn rest(first: usize, counts: &[i64]) -> Vec<Piece> {
        let piece = |(index, count): (usize, &i64)| Piece {
            param: first + index,
            values: 0..*count,
            matrix: None,
        };
        counts.iter().enumerate().map(piece).collect()
    }

    /// BERT's hidden matrices, layer by layer.
    fn bert(layers: usize, hidden: i64) -> Vec<Piece> {
        let layer =
            [[hidden, hidden]; 4].into_iter().chain([[4 * hidden, hidden], [hidden, 4 * hidden]]);
        matrices(&layer.cycle().take(6 * layers).collect::<Vec<_>>())
    }

    #[test]
    fn berts_work_is_shared_as_evenly_as_was_computed_by_hand() {
        for (layers, hidden, rest_values, cases) in [
            (12, 768, 24_500_000, [(8, 1.005), (16, 1.075), (32, 1.075), (64, 1.605)]),
            (24, 1024, 33_000_000, [(8, 1.005), (16, 1.005), (32, 1.075), (64, 1.075)]),
        ] {
            for (ranks, most) in cases {
                let plan =
                    ShardPlan::new(bert(layers, hidden), &rest(6 * layers, &[rest_values]), ranks);
                let found = plan.imbalance();
                assert!((1.0..most).contains(&found), "{layers} layers, {ranks} ranks: {found}");
            }
        }
    }

    #[test]
    fn equal_matrices_are_shared_equally() {
        let plan = ShardPlan::new(bert(12, 768), &rest(72, &[24_000_000]), 4);
        for segment in plan.segments() {
            let squares = segment.iter().filter(|piece| piece.matrix == Some([768, 768])).count();
            assert_eq!(squares, 12);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn each_value_has_one_owner_and_segments_are_equal(
            shapes in prop::collection::vec((1i64..40, 1i64..40), 0..20),
            counts in prop::collection::vec(1i64..500, 0..10),
            ranks in 1usize..=64,
        ) {
            let shapes: Vec<[i64; 2]> = shapes.into_iter().map(<[i64; 2]>::from).collect();
            let whole = matrices(&shapes);
            let cut = rest(shapes.len(), &counts);
            let plan = ShardPlan::new(whole.clone(), &cut, ranks);
            prop_assert_eq!(&plan, &ShardPlan::new(whole.clone(), &cut, ranks));
            prop_assert_eq!(plan.segments().len(), ranks);
            let mut owned: Vec<Vec<bool>> =
                whole.iter().chain(&cut).map(|piece| vec![false; piece.count() as usize]).collect();
            for segment in plan.segments() {
                let values: i64 = segment.iter().map(Piece::count).sum();
                prop_assert!(values <= plan.segment_values());
                prop_assert!(segment.is_sorted_by_key(place));
                for piece in segment {
                    prop_assert!(piece.matrix.is_none() || whole.contains(piece), "whole matrices");
                    for value in piece.values.clone() {
                        let taken = &mut owned[piece.param][value as usize];
                        prop_assert!(!*taken, "two owners");
                        *taken = true;
                    }
                }
            }
            prop_assert!(owned.iter().flatten().all(|taken| *taken), "no owner");
        }
    }
}
