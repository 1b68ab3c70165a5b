//! Where noise comes from: the variance of a crossed design split into rows, columns and the rest.
//!
//! One config is trained with every pair of an initialisation seed (rows) and a training seed (columns: data order and
//! dropout). The model is `y_ij = mu + a_i + b_j + e_ij` with random a, b, e; training being deterministic, e is what
//! initialisation and data order do together and neither does alone.

use super::mean;

/// Variance components of a two-way crossed design without repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Components {
    /// Variance from the rows (initialisation); an estimate below zero, as chance allows, is given as it is.
    pub rows: f64,
    /// Variance from the columns (training).
    pub columns: f64,
    /// Variance of the interaction.
    pub interaction: f64,
    /// Variance that a run with all seeds drawn anew has: the sum, with negative estimates as zero.
    pub total: f64,
}

/// Splits the variance by the analysis of variance (Searle, Casella and McCulloch 1992, chapter 4): with mean squares
/// `MS_rows`, `MS_columns` and `MS_rest`, the components are `(MS_rows - MS_rest) / columns`,
/// `(MS_columns - MS_rest) / rows` and `MS_rest`. `None` unless the table is rectangular, finite and at least 2 by 2.
pub fn components(table: &[Vec<f64>]) -> Option<Components> {
    let (rows, columns) = (table.len(), table.first()?.len());
    let whole = table.iter().all(|row| row.len() == columns && row.iter().all(|value| value.is_finite()));
    if rows < 2 || columns < 2 || !whole {
        return None;
    }
    let row_means: Vec<f64> = table.iter().map(|row| mean(row)).collect();
    let column_means: Vec<f64> =
        (0..columns).map(|j| table.iter().map(|row| row[j]).sum::<f64>() / rows as f64).collect();
    let grand = mean(&row_means);
    let squares = |means: &[f64]| means.iter().map(|m| (m - grand) * (m - grand)).sum::<f64>();
    let (i, j) = (rows as f64, columns as f64);
    let ms_rows = j * squares(&row_means) / (i - 1.0);
    let ms_columns = i * squares(&column_means) / (j - 1.0);
    let rest = table.iter().zip(&row_means).flat_map(|(row, row_mean)| {
        row.iter().zip(&column_means).map(move |(value, column_mean)| {
            let e = value - row_mean - column_mean + grand;
            e * e
        })
    });
    let ms_rest = rest.sum::<f64>() / ((i - 1.0) * (j - 1.0));
    let (a, b) = ((ms_rows - ms_rest) / j, (ms_columns - ms_rest) / i);
    Some(Components { rows: a, columns: b, interaction: ms_rest, total: a.max(0.0) + b.max(0.0) + ms_rest })
}
