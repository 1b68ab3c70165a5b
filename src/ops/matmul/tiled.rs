//! Matrix products in tiles of bf16: what goes into which panel, who multiplies it, and where the sums go.
//!
//! A result of 32 x 32 is one product of two panels, summed in the order of k and by one thread: the bits depend neither on
//! the number of threads nor on the other rows and columns. A long k is cut into stretches, whose sums are added in order.

use rayon::prelude::*;

use super::Threads;
use super::pack::{LINES, Lines, Packed, STEP, Side, pack, panel_len};
use super::units::{Block, Ready};
use crate::device::bf16_unit::Bf16Unit;
use crate::device::pool::HostBuffer;
use crate::parallel::Parts;

/// The longest stretch of k of one pass, for values that are made of some parts. It decides bits.
pub fn stretch(parts: usize) -> usize {
    3072 / parts
}

/// Columns whose panels are packed at a time.
const COLUMNS: usize = 2048;
/// Bytes of the panels of A that a task keeps in its second-level cache, next to a panel of B that passes through.
const ROWS_BYTES: usize = 768 << 10;

/// A block's place in the result, and in the stretches of k.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The first row.
    pub row: usize,
    /// The first column.
    pub column: usize,
    /// Rows, at most 32.
    pub rows: usize,
    /// Columns, at most 32.
    pub columns: usize,
    /// Whether this is the first stretch of k.
    pub first: bool,
    /// Whether it is the last.
    pub last: bool,
}

/// Multiplies `a` (lines: the m rows) and `b` (lines: the n columns) over k, [m, n, k] being `shape`; `take` is given every
/// block of sums, once for each stretch of k, in the order of the stretches.
///
/// # Safety
/// The matrices must be readable over the shape, and this machine have the unit.
pub unsafe fn multiply<E: Packed>(
    unit: Bf16Unit,
    [m, n, k]: [usize; 3],
    a: Lines<E>,
    b: Lines<E>,
    threads: Threads,
    take: impl Fn(&Block, Place) + Sync,
) {
    // Stretches of one length, as far as whole steps allow.
    let stretch = k.div_ceil(k.div_ceil(stretch(E::PARTS))).next_multiple_of(STEP);
    let mut columns = scratch(panel_len(stretch, E::PARTS) * n.min(COLUMNS).div_ceil(LINES));
    let columns = Parts::new(bytemuck::cast_slice_mut::<u8, u16>(columns.bytes_mut()));
    for column in (0..n).step_by(COLUMNS) {
        for first in (0..k).step_by(stretch) {
            let pass = Pass {
                unit,
                rows: m,
                columns: COLUMNS.min(n - column),
                k: stretch.min(k - first),
                place: Place { row: 0, column, rows: 0, columns: 0, first: first == 0, last: first + stretch >= k },
                take: &take,
            };
            // SAFETY: `column` is below n and `first` below k, and the pass reads `columns` lines and `k` values from there, no further
            // than n and k; a pass has at most `min(n, COLUMNS)` lines and `stretch` values of k, for which the buffer
            // was made.
            unsafe { pass.run(a.at(0, first), b.at(column, first), &columns, threads) };
        }
    }
}

/// A buffer of 16-bit values.
fn scratch(values: usize) -> HostBuffer {
    HostBuffer::workspace(2 * values)
}

/// One stretch of k and up to [`COLUMNS`] columns.
struct Pass<'t, F> {
    unit: Bf16Unit,
    rows: usize,
    columns: usize,
    k: usize,
    place: Place,
    take: &'t F,
}

impl<F: Fn(&Block, Place) + Sync> Pass<'_, F> {
    /// # Safety
    /// `a` and `b` are readable over the pass's rows, columns and k; `packed` has a panel for every 32 columns; the
    /// machine has the unit.
    unsafe fn run<E: Packed>(&self, a: Lines<E>, b: Lines<E>, packed: &Parts<'_, u16>, threads: Threads) {
        let len = panel_len(self.k, E::PARTS);
        let (row_panels, column_panels) = (self.rows.div_ceil(LINES), self.columns.div_ceil(LINES));
        let pack_columns = |panel: usize| {
            let lines = LINES.min(self.columns - LINES * panel);
            // SAFETY: the lines `LINES * panel..` of `b` are inside by the caller's promise; panel `panel` of the buffer, `len` values
            // of it, is written by this call alone, and read after all calls have returned.
            unsafe { pack(packed.at(panel * len), b.at(LINES * panel, 0), lines, self.k, Side::Columns) };
        };
        let most = (ROWS_BYTES / (2 * len)).clamp(1, 16);
        match threads {
            Threads::One => {
                (0..column_panels).for_each(pack_columns);
                for rows in (0..row_panels).step_by(most) {
                    // SAFETY: `a` and the panels of columns, all packed now, are this pass's; one thread has all blocks.
                    unsafe { self.rows(a, packed, rows..row_panels.min(rows + most), 0..column_panels) };
                }
            }
            Threads::All => {
                (0..column_panels).into_par_iter().with_min_len(4).for_each(pack_columns);
                // A few tasks for each thread; where there are few rows, the columns are shared out too.
                let wanted = 4 * rayon::current_num_threads();
                let group = row_panels.div_ceil(wanted).clamp(1, most);
                let row_tasks = row_panels.div_ceil(group);
                let width = column_panels.div_ceil(wanted.div_ceil(row_tasks).min(column_panels));
                let column_tasks = column_panels.div_ceil(width);
                (0..row_tasks * column_tasks).into_par_iter().for_each(|task| {
                    let (row, column) = (task / column_tasks * group, task % column_tasks * width);
                    let columns = column..column_panels.min(column + width);
                    // SAFETY: `a` and the panels of columns, all packed now, are this pass's; a task is one group of rows and one of
                    // columns, so its blocks of the result are no other task's.
                    unsafe { self.rows(a, packed, row..row_panels.min(row + group), columns) };
                });
            }
        }
    }

    /// The blocks of some panels of rows and of columns.
    ///
    /// # Safety
    /// As [`Pass::run`]; the panels of columns are packed.
    unsafe fn rows<E: Packed>(
        &self,
        a: Lines<E>,
        columns: &Parts<'_, u16>,
        row_panels: std::ops::Range<usize>,
        column_panels: std::ops::Range<usize>,
    ) {
        let (len, steps) = (panel_len(self.k, E::PARTS), self.k.div_ceil(STEP));
        let mut packed = scratch(row_panels.len() * len);
        let packed = packed.bytes_mut().as_mut_ptr().cast::<u16>();
        let place_of = |panel: usize, all: usize| (LINES * panel, LINES.min(all - LINES * panel));
        for (index, panel) in row_panels.clone().enumerate() {
            let (row, lines) = place_of(panel, self.rows);
            // SAFETY: `row + lines` is at most the rows of `a`, and the buffer has a panel for each of `row_panels`.
            unsafe { pack(packed.add(index * len), a.at(row, 0), lines, self.k, Side::Rows) };
        }
        // SAFETY: this machine has the unit, as the caller of `multiply` promised.
        let unit = unsafe { Ready::new(self.unit) };
        let mut block = Block([0.0; 1024]);
        for panel in column_panels {
            let (column, columns_here) = place_of(panel, self.columns);
            for (index, row_panel) in row_panels.clone().enumerate() {
                let (row, rows) = place_of(row_panel, self.rows);
                // SAFETY: panel `index` was packed above and panel `panel` by the caller, `steps` steps each.
                unsafe {
                    let operands = (packed.add(index * len).cast_const(), columns.at(panel * len).cast_const());
                    unit.multiply(&mut block, operands, steps, E::PARTS);
                }
                let column = self.place.column + column;
                (self.take)(&block, Place { row, column, rows, columns: columns_here, ..self.place });
            }
        }
    }
}
