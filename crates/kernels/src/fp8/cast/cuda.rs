//! [`crate::fp8::cast()`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Kind, Result, Tensor};

use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{blocks, is_aligned, source};
use crate::fp8::{Cast, Factor, Format, Scaled};

const OP: &str = "cast to FP8";

/// As in `fp8.cu`.
const THREADS: u32 = 256;
const TILE: u32 = 128;
/// Enough blocks to fill every GPU there is, each with work to repeat.
const MOST_BLOCKS: u32 = 132 * 8;

/// Where the tile kernel's factors come from; as in `fp8.cu`.
#[derive(Clone, Copy)]
enum ScaleSource {
    Amax = 0,
    Given = 1,
    Columns = 2,
}

/// See [`crate::fp8::cast()`]; `x_rc` is on a GPU.
pub(crate) fn cast(
    x_rc: &Tensor,
    format: Format,
    factor: Factor<'_>,
    transposed: bool,
) -> Result<Cast> {
    // A matrix that begins at an odd place is copied to one that does not.
    let copy = if is_aligned(x_rc) { None } else { Some(aligned_copy(x_rc)?) };
    let task = GpuCast::new(copy.as_ref().unwrap_or(x_rc), format)?;
    match factor {
        Factor::Row => task.by_row(transposed),
        Factor::Tensor => {
            let amax = task.zeros(&[1], Kind::Float)?;
            task.amax(&amax)?;
            task.by_tensor(&amax, ScaleSource::Amax, None, transposed)
                .map(|cast| Cast { amax, ..cast })
        }
        Factor::Given(given) => {
            crate::cuda::check(given, Kind::Float, x_rc.device(), "the given factor")?;
            if given.numel() != 1 {
                return Err(Error::Shape {
                    op: OP,
                    tensor: "the given factor",
                    found: given.size(),
                    expected: "one value".into(),
                });
            }
            task.by_tensor(given, ScaleSource::Given, Some(()), transposed)
        }
    }
}

struct GpuCast<'a> {
    x: &'a Tensor,
    format: Format,
    rows: i64,
    cols: i64,
}

impl<'a> GpuCast<'a> {
    fn new(x: &'a Tensor, format: Format) -> Result<Self> {
        let (rows, cols) = super::sizes(x)?;
        crate::cuda::check_float(x, "a matrix to cast to FP8")?;
        crate::cuda::check_int(rows.max(cols), "a side of a matrix")?;
        Ok(Self { x, format, rows: rows as i64, cols: cols as i64 })
    }

    fn zeros(&self, shape: &[i64], kind: Kind) -> Result<Tensor> {
        Tensor::f_zeros(shape, (kind, self.x.device())).during(OP)
    }

    fn empty(&self, shape: &[i64], kind: Kind) -> Result<Tensor> {
        Tensor::f_empty(shape, (kind, self.x.device())).during(OP)
    }

    /// The kernel of this dtype and, where it matters, format.
    fn kernel(&self, float: [&'static str; 2], bf16: [&'static str; 2]) -> &'static str {
        let names = if self.x.kind() == Kind::BFloat16 { bf16 } else { float };
        names[usize::from(self.format == Format::E5M2)]
    }

    fn launch(&self, kernel: &'static str, grid: (u32, u32), args: &[Arg<'_>]) -> Result<()> {
        let grid = (grid.0, grid.1, 1);
        let launch = KernelLaunch { source: &source::FP8, kernel, grid, block: THREADS, shared: 0 };
        // SAFETY: each caller passes what its kernel in fp8.cu takes: tensors that were made or
        // checked here, of the sizes that the kernel's comment tells.
        unsafe { launch.run(self.x.device(), args) }
    }

    fn amax(&self, amax: &Tensor) -> Result<()> {
        let kernel = self.kernel(["fp8_amax_float"; 2], ["fp8_amax_bf16"; 2]);
        let count = self.rows * self.cols;
        let pack = 16 / self.x.kind().elt_size_in_bytes() as i64;
        let blocks = blocks(count, i64::from(THREADS) * pack).clamp(1, MOST_BLOCKS);
        self.launch(kernel, (blocks, 1), &[self.x.into(), count.into(), amax.into()])
    }

    fn tiles(
        &self,
        factors: (&Tensor, ScaleSource),
        straight: Option<&Tensor>,
        copy: Option<&Tensor>,
        inverse: &Tensor,
        seen: Option<(&Tensor, &Tensor)>,
    ) -> Result<()> {
        let kernel = self.kernel(
            ["fp8_tile_float_e4m3", "fp8_tile_float_e5m2"],
            ["fp8_tile_bf16_e4m3", "fp8_tile_bf16_e5m2"],
        );
        let grid = (blocks(self.cols, TILE.into()), blocks(self.rows, TILE.into()));
        if grid.1 > crate::cuda::MOST_GRID_Y {
            return Err(crate::cuda::too_large("rows of a matrix to cast to FP8", self.rows));
        }
        let (amax, count) = (seen.map(|seen| seen.0), seen.map(|seen| seen.1));
        let args = [
            self.x.into(),
            (self.rows as i32).into(),
            (self.cols as i32).into(),
            factors.0.into(),
            (factors.1 as i32).into(),
            straight.into(),
            copy.into(),
            inverse.into(),
            amax.into(),
            count.into(),
        ];
        self.launch(kernel, grid, &args)
    }

    fn by_tensor(
        &self,
        factors: &Tensor,
        from: ScaleSource,
        see: Option<()>,
        transposed: bool,
    ) -> Result<Cast> {
        let values = self.empty(&[self.rows, self.cols], self.format.kind())?;
        let copy = match transposed {
            true => Some(self.empty(&[self.cols, self.rows], self.format.kind())?),
            false => None,
        };
        let inverse = self.empty(&[1], Kind::Float)?;
        let amax = match see {
            Some(()) => self.zeros(&[1], Kind::Float)?,
            // Known already: raised to what it is.
            None => factors.shallow_clone(),
        };
        let overflows = self.zeros(&[1], Kind::Int64)?;
        let seen = Some((&amax, &overflows));
        self.tiles((factors, from), Some(&values), copy.as_ref(), &inverse, seen)?;
        let scaled = |values| Scaled { values, inverse: inverse.shallow_clone() };
        Ok(Cast { straight: scaled(values), transposed: copy.map(scaled), amax, overflows })
    }

    fn by_row(&self, transposed: bool) -> Result<Cast> {
        let kernel = self.kernel(
            ["fp8_rows_float_e4m3", "fp8_rows_float_e5m2"],
            ["fp8_rows_bf16_e4m3", "fp8_rows_bf16_e5m2"],
        );
        let values = self.empty(&[self.rows, self.cols], self.format.kind())?;
        let inverse = self.empty(&[self.rows, 1], Kind::Float)?;
        let amax = self.zeros(&[1], Kind::Float)?;
        let overflows = self.zeros(&[1], Kind::Int64)?;
        let args = [
            self.x.into(),
            (self.rows as i32).into(),
            (self.cols as i32).into(),
            (&values).into(),
            (&inverse).into(),
            (&amax).into(),
            (&overflows).into(),
        ];
        self.launch(kernel, (blocks(self.rows, i64::from(THREADS / 32)), 1), &args)?;
        let transposed = if transposed { Some(self.columns()?) } else { None };
        Ok(Cast { straight: Scaled { values, inverse }, transposed, amax, overflows })
    }

    /// The transposed copy with a factor for each of its rows.
    fn columns(&self) -> Result<Scaled> {
        let kernel = self.kernel(["fp8_amax_columns_float"; 2], ["fp8_amax_columns_bf16"; 2]);
        let amax = self.zeros(&[self.cols], Kind::Float)?;
        let pack = 16 / self.x.kind().elt_size_in_bytes() as i64;
        let across = blocks(self.cols, i64::from(THREADS) * pack);
        let down = (MOST_BLOCKS / across.max(1)).clamp(1, self.rows.max(1) as u32);
        let (rows, cols) = (self.rows as i32, self.cols as i32);
        let args = [self.x.into(), rows.into(), cols.into(), (&amax).into()];
        self.launch(kernel, (across, down), &args)?;
        let values = self.empty(&[self.cols, self.rows], self.format.kind())?;
        let inverse = self.empty(&[self.cols, 1], Kind::Float)?;
        self.tiles((&amax, ScaleSource::Columns), None, Some(&values), &inverse, None)?;
        Ok(Scaled { values, inverse })
    }
}

fn aligned_copy(x: &Tensor) -> Result<Tensor> {
    let mut copy = x.f_empty_like().during(OP)?;
    copy.f_copy_(x).during(OP)?;
    Ok(copy)
}
