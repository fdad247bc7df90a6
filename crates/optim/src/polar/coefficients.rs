//! Coefficients of the odd quintics `p(s) = a s + b s³ + c s⁵` whose composition takes singular
//! values to 1.

use serde::{Deserialize, Serialize};

use crate::error::{Result, check};

/// One step's polynomial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quintic {
    /// Of `s`.
    pub a: f64,
    /// Of `s³`.
    pub b: f64,
    /// Of `s⁵`.
    pub c: f64,
}

impl Quintic {
    /// `p(s)`.
    pub fn at(self, s: f64) -> f64 {
        let square = s * s;
        s * (self.a + square * (self.b + square * self.c))
    }

    /// `p(s / factor)`.
    fn shrunk(self, factor: f64) -> Self {
        let Self { a, b, c } = self;
        Self { a: a / factor, b: b / factor.powi(3), c: c / factor.powi(5) }
    }

    fn scaled(self, factor: f64) -> Self {
        Self { a: self.a * factor, b: self.b * factor, c: self.c * factor }
    }
}

/// Which polynomials.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Coefficients {
    /// Optimal for each step count; arXiv 2505.16932.
    PolarExpress(PolarExpress),
    /// Keller Jordan's (3.4445, -4.7750, 2.0315) at every step, as in `torch.optim.Muon`.
    Jordan {
        /// How many steps; 5 is usual.
        steps: usize,
    },
    /// You Jiacheng's five, as in modded-nanogpt before Polar Express.
    You {
        /// How many of the five, from the first on.
        steps: usize,
    },
    /// Turbo-Muon's four, for matrices whose rows are scaled first so that their Gram matrix is
    /// near 1: a step less than without. As in thib-s/flash-newton-schulz; the scaling is that of
    /// almost orthogonal layers, arXiv 2208.03160. What comes out is the polar factor of the scaled
    /// matrix.
    Turbo {
        /// How many of the four, from the first on.
        steps: usize,
    },
}

/// What Polar Express is optimal for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolarExpress {
    /// How many steps. The last differs from a middle one: a table for 6 is not that for 5 and
    /// one more.
    pub steps: usize,
    /// Singular values from here to 1, relative to the norm, are taken to 1.
    #[serde(default = "default_lower")]
    pub lower: f64,
    /// Room for rounding above 1: every step but the last is made for values up to `1 + safety`.
    #[serde(default = "default_margin")]
    pub safety: f64,
    /// A step's interval begins no lower than this part of its upper end: lifting tiny values
    /// faster would lower others in between.
    #[serde(default = "default_margin")]
    pub cushion: f64,
    /// Where `safety` is put.
    #[serde(default)]
    pub safety_place: SafetyPlace,
}

/// Where Polar Express puts its safety factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SafetyPlace {
    /// Into the recursion: each step is made for what the ones before really do. As in
    /// modded-nanogpt, dion and nanochat.
    #[default]
    Recursion,
    /// Onto a table made without it, except the last of its eight rows. As in the paper's
    /// Algorithm 1 (`safety` 0.01) and Dao-AILab's gram-newton-schulz (0.05).
    Afterwards,
}

fn default_lower() -> f64 {
    1e-3
}

fn default_margin() -> f64 {
    0.02
}

/// Rows of the paper's table.
const PAPER_ROWS: usize = 8;
/// The paper's cushion.
pub const PAPER_CUSHION: f64 = 0.024_073_274_241_827_61;
/// A step's interval this close to a point is served by the Padé approximant.
const POINT: f64 = 5e-6;
/// Exchanges after which the points no longer move but for rounding; 10 are usual.
const MOST_ROUNDS: usize = 100;

const JORDAN: Quintic = Quintic { a: 3.4445, b: -4.7750, c: 2.0315 };
const YOU: [Quintic; 5] = [
    Quintic { a: 4.0848, b: -6.8946, c: 2.9270 },
    Quintic { a: 3.9505, b: -6.3029, c: 2.6377 },
    Quintic { a: 3.7418, b: -5.5913, c: 2.3037 },
    Quintic { a: 2.8769, b: -3.1427, c: 1.2046 },
    Quintic { a: 2.8366, b: -3.0525, c: 1.2012 },
];

const TURBO: [Quintic; 4] = [
    Quintic { a: 4.6051, b: -9.6552, c: 5.6769 },
    Quintic { a: 4.7505, b: -6.0861, c: 2.1790 },
    Quintic { a: 2.7763, b: -2.3190, c: 0.5523 },
    Quintic { a: 2.4231, b: -2.2861, c: 0.8193 },
];

impl Coefficients {
    /// Polar Express with the usual margins, as modded-nanogpt has it at 5 steps.
    pub fn polar_express(steps: usize) -> Self {
        Self::PolarExpress(PolarExpress {
            steps,
            lower: default_lower(),
            safety: default_margin(),
            cushion: default_margin(),
            safety_place: SafetyPlace::Recursion,
        })
    }

    /// The polynomials, in the order in which they are applied.
    pub fn table(&self) -> Vec<Quintic> {
        match *self {
            Self::PolarExpress(express) => express.table(),
            Self::Jordan { steps } => vec![JORDAN; steps],
            Self::You { steps } => YOU[..steps.min(YOU.len())].to_vec(),
            Self::Turbo { steps } => TURBO[..steps.min(TURBO.len())].to_vec(),
        }
    }

    /// What the norm is multiplied by before dividing by it, so that rounding leaves no singular
    /// value above the interval that the table is made for.
    pub fn norm_factor(&self) -> f64 {
        match *self {
            Self::PolarExpress(express) => 1.0 + express.safety,
            Self::Jordan { .. } | Self::You { .. } | Self::Turbo { .. } => 1.0,
        }
    }

    /// Whether rows are scaled before the first step.
    pub fn scales_rows(&self) -> bool {
        matches!(self, Self::Turbo { .. })
    }

    /// Refuses counts and margins out of range. `key` is the setting's path.
    pub fn validate(&self, key: &str) -> Result<()> {
        let key = |name: &str| format!("{key}.{name}");
        let steps = self.steps();
        let most = match self {
            Self::You { .. } => YOU.len(),
            Self::Turbo { .. } => TURBO.len(),
            Self::PolarExpress(_) | Self::Jordan { .. } => 100,
        };
        let reason = format!("must be from 1 to {most}");
        check(&key("steps"), steps as f64, (1..=most).contains(&steps), &reason)?;
        if let Self::PolarExpress(express) = *self {
            let PolarExpress { lower, safety, cushion, .. } = express;
            let inside = |value: f64| value > 0.0 && value < 1.0;
            check(&key("lower"), lower, inside(lower), "must be between 0 and 1")?;
            check(&key("cushion"), cushion, inside(cushion), "must be between 0 and 1")?;
            let small = (0.0..0.5).contains(&safety);
            check(&key("safety"), safety, small, "must be at least 0 and below 0.5")?;
        }
        Ok(())
    }

    /// How many steps.
    pub fn steps(&self) -> usize {
        match *self {
            Self::PolarExpress(PolarExpress { steps, .. })
            | Self::Jordan { steps }
            | Self::You { steps }
            | Self::Turbo { steps } => steps,
        }
    }
}

impl PolarExpress {
    /// The table for this step count; the composition of its polynomials is the closest to 1 on
    /// `[lower, 1]` step by step. Follows `polar_express.py` of NoahAmsel/PolarExpress.
    pub fn table(&self) -> Vec<Quintic> {
        match self.safety_place {
            SafetyPlace::Recursion => recursion(self, self.steps, self.safety),
            SafetyPlace::Afterwards => {
                let rows = self.steps.max(PAPER_ROWS);
                let factor = 1.0 + self.safety;
                let mut table = recursion(self, rows, 0.0);
                for quintic in &mut table[..rows - 1] {
                    *quintic = quintic.shrunk(factor);
                }
                table.truncate(self.steps);
                table
            }
        }
    }
}

fn recursion(express: &PolarExpress, steps: usize, safety: f64) -> Vec<Quintic> {
    let (mut lower, mut upper) = (express.lower, 1.0);
    let mut table = Vec::with_capacity(steps);
    for step in 0..steps {
        let cushioned = lower.max(express.cushion * upper);
        let mut quintic = optimal_quintic(cushioned, upper);
        if cushioned > lower {
            // Made for an interval that begins too high: centre what it does on the true one.
            quintic = quintic.scaled(2.0 / (quintic.at(lower) + quintic.at(upper)));
        }
        if step + 1 < steps {
            quintic = quintic.shrunk(1.0 + safety);
        }
        table.push(quintic);
        lower = quintic.at(lower);
        upper = 2.0 - lower;
        lower = lower.min(upper);
    }
    table
}

/// The odd quintic closest to 1 on `[lower, upper]` in the largest error, by Remez exchange: its
/// error is equal and of alternating sign at `lower < q < r < upper`.
///
/// On a narrow interval the sources' equations in `a, b, c` lose up to 8 digits. Here the unknown
/// is what differs from the Padé approximant, as `s (alpha + beta y + gamma y²)` with
/// `y = 1 - s²`, which keeps them all.
fn optimal_quintic(lower: f64, upper: f64) -> Quintic {
    if lower / upper >= 1.0 - POINT {
        return PADE.shrunk(upper);
    }
    let (q, r) = ((3.0 * lower + upper) / 4.0, (lower + 3.0 * upper) / 4.0);
    let mut ys = [lower, q, r, upper].map(|s| (1.0 - s) * (1.0 + s));
    let unit = ys[0].abs().max(ys[3].abs());
    let mut error_before = f64::INFINITY;
    for round in 0.. {
        let [alpha, beta, gamma, error] = solve(std::array::from_fn(|row| {
            let (y, s) = (ys[row], (1.0 - ys[row]).sqrt());
            let (z, sign) = (y / unit, if row % 2 == 0 { 1.0 } else { -1.0 });
            [s, s * z, s * z * z, sign, pade_shortfall(y)]
        }));
        let (beta, gamma) = (beta / unit, gamma / (unit * unit));
        if (error_before - error).abs() <= 1e-12 * error.abs() || round == MOST_ROUNDS {
            let (a, b, c) = (alpha + beta + gamma, -(beta + 2.0 * gamma), gamma);
            return Quintic { a: PADE.a + a, b: PADE.b + b, c: PADE.c + c };
        }
        error_before = error;
        // Where the derivative vanishes, a quadratic in y.
        let (c0, c1, c2) = (alpha - 2.0 * beta, 3.0 * beta - 4.0 * gamma, 15.0 / 8.0 + 5.0 * gamma);
        let root = (c1 * c1 - 4.0 * c0 * c2).sqrt();
        (ys[1], ys[2]) = ((-c1 + root) / (2.0 * c2), (-c1 - root) / (2.0 * c2));
    }
    unreachable!("the last round returns")
}

/// The limit of the optimal quintic as the interval shrinks to 1.
const PADE: Quintic = Quintic { a: 15.0 / 8.0, b: -10.0 / 8.0, c: 3.0 / 8.0 };

/// `1 - PADE(sqrt(1 - y))`, with all digits for small `y` too: `s (1-y)^(-1/2)` is 1, and the
/// Padé approximant is that series to its third term.
fn pade_shortfall(y: f64) -> f64 {
    let s = (1.0 - y).sqrt();
    if y.abs() > 0.1 {
        return 1.0 - s * (1.0 + y * (0.5 + y * 0.375));
    }
    let (mut term, mut sum) = (0.375 * y * y, 0.0);
    for k in 3..24 {
        term *= y * (2.0 * f64::from(k) - 1.0) / (2.0 * f64::from(k));
        sum += term;
    }
    s * sum
}

/// Solves four linear equations, the right side in the last column, with row exchanges.
fn solve(mut rows: [[f64; 5]; 4]) -> [f64; 4] {
    for column in 0..4 {
        let size = |row: &usize| rows[*row][column].abs();
        let pivot = (column..4).max_by(|x, y| size(x).total_cmp(&size(y))).unwrap_or(column);
        rows.swap(column, pivot);
        let pivot_row = rows[column];
        for row in rows.iter_mut().skip(column + 1) {
            let factor = row[column] / pivot_row[column];
            for (value, above) in row.iter_mut().zip(pivot_row).skip(column) {
                *value -= factor * above;
            }
        }
    }
    let mut solution = [0.0; 4];
    for row in (0..4).rev() {
        let known: f64 = (row + 1..4).map(|column| rows[row][column] * solution[column]).sum();
        solution[row] = (rows[row][4] - known) / rows[row][row];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    /// modded-nanogpt's `train_gpt.py` at f411b3d, equal in dion and nanochat.
    const MODDED: [[f64; 3]; 5] = [
        [8.156554524902461, -22.48329292557795, 15.878769915207462],
        [4.042929935166739, -2.808917465908714, 0.5000178451051316],
        [3.8916678022926607, -2.772484153217685, 0.5060648178503393],
        [3.285753657755655, -2.3681294933425376, 0.46449024233003106],
        [2.3465413258596377, -1.7097828382687081, 0.42323551169305323],
    ];

    /// arXiv 2505.16932, Algorithm 1, before its safety factor. Row 7 is that of the recursion in
    /// 60 digits: the published one is off by 9e-12, and row 8 there is the limit, 2e-9 away.
    const PAPER: [[f64; 3]; 8] = [
        [8.28721201814563, -23.595886519098837, 17.300387312530933],
        [4.107059111542203, -2.9478499167379106, 0.5448431082926601],
        [3.9486908534822946, -2.908902115962949, 0.5518191394370137],
        [3.3184196573706015, -2.488488024314874, 0.51004894012372],
        [2.300652019954817, -1.6689039845747493, 0.4188073119525673],
        [1.891301407787398, -1.2679958271945868, 0.37680408948524835],
        [1.8750014808442192, -1.2500016453814815, 0.37500016453818624],
        [1.874999998050339, -1.249999996100678, 0.37499999805033896],
    ];

    #[track_caller]
    fn assert_rows(found: &[Quintic], expected: &[[f64; 3]], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (row, (quintic, expected)) in found.iter().zip(expected).enumerate() {
            for (found, expected) in [quintic.a, quintic.b, quintic.c].iter().zip(expected) {
                let error = (found - expected).abs();
                assert!(error < tolerance, "row {row}: {found} for {expected}: off by {error:e}");
            }
        }
    }

    fn compose(table: &[Quintic], s: f64) -> f64 {
        table.iter().fold(s, |s, quintic| quintic.at(s))
    }

    #[test]
    fn reproduces_the_table_of_modded_nanogpt() {
        assert_rows(&Coefficients::polar_express(5).table(), &MODDED, 1e-12);
    }

    #[test]
    fn reproduces_the_tables_of_the_paper_and_of_gram_newton_schulz() {
        for (safety, steps) in [(0.0, 8), (0.01, 8), (0.01, 5), (0.05, 5)] {
            let express = PolarExpress {
                steps,
                lower: 1e-3,
                safety,
                cushion: PAPER_CUSHION,
                safety_place: SafetyPlace::Afterwards,
            };
            let mut expected = PAPER[..steps].to_vec();
            for row in expected.iter_mut().take(7) {
                for (value, power) in row.iter_mut().zip([1, 3, 5]) {
                    *value /= (1.0 + safety).powi(power);
                }
            }
            assert_rows(&express.table(), &expected, 1e-12);
        }
    }

    /// Last rows of other lengths, from the recursion in 60 digits (mpmath).
    #[test]
    fn reproduces_tables_of_other_lengths() {
        let cases = [
            (4, [3.3514687309107694, -2.513077963371047, 0.5128347598303027]),
            (6, [1.9003834757310214, -1.2779237188292998, 0.37780315336362874]),
            (7, [1.8750223595298974, -1.2500248436976842, 0.37500248437845857]),
            (8, [1.875000001185555, -1.2500000013172834, 0.37500000013172835]),
        ];
        for (steps, last) in cases {
            let table = Coefficients::polar_express(steps).table();
            assert_rows(&table[steps - 1..], &[last], 1e-12);
        }
    }

    #[test]
    fn guaranteed_errors_are_those_of_the_specification() {
        for (steps, bound) in
            [(3, 0.87), (4, 0.577), (5, 0.142), (6, 0.0024), (7, 7e-8), (8, 1e-13)]
        {
            let table = Coefficients::polar_express(steps).table();
            let worst = (0..=20_000)
                .map(|i| 1e-3f64.powf(f64::from(i) / 20_000.0))
                .map(|s| (compose(&table, s) - 1.0).abs())
                .fold(0.0, f64::max);
            assert!(worst < bound, "{steps} steps: {worst}");
        }
    }

    /// Values of `shared/optimizers.md`, section 1.4.
    #[test]
    fn compositions_have_the_published_values() {
        let cases = [
            (Coefficients::Jordan { steps: 5 }, [0.048, 0.145, 0.471, 1.110, 0.699]),
            (Coefficients::You { steps: 5 }, [0.049, 0.147, 0.475, 1.075, 1.018]),
            (Coefficients::Turbo { steps: 4 }, [0.015, 0.044, 0.147, 0.426, 1.014]),
            (Coefficients::polar_express(5), [0.099, 0.293, 0.859, 0.966, 1.027]),
            (Coefficients::polar_express(6), [0.183, 0.517, 0.998, 1.001, 0.998]),
        ];
        for (coefficients, expected) in cases {
            let table = coefficients.table();
            for (s, expected) in [1e-4, 3e-4, 1e-3, 3e-3, 1e-2].into_iter().zip(expected) {
                let found = compose(&table, s);
                assert!((found - expected).abs() < 6e-4, "{coefficients:?} at {s}: {found}");
            }
        }
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        assert!(Coefficients::You { steps: 6 }.validate("muon").is_err());
        assert!(Coefficients::Turbo { steps: 5 }.validate("muon").is_err());
        assert!(Coefficients::polar_express(0).validate("muon").is_err());
        assert!(Coefficients::polar_express(5).validate("muon").is_ok());
    }
}
