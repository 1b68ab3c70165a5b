//! The layout of attention heads in a packed row of queries, keys and values.

/// How many heads, and how large. A packed row holds all query heads, then all key heads, then all value heads:
/// `[(H + 2K) * D]`. Query head `h` uses key-value head `h / (H / K)` (grouped-query attention, Ainslie et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Number of query heads, H.
    pub n_head: usize,
    /// Number of key-value heads, K; it divides H.
    pub n_kv_head: usize,
    /// Size of a head, D.
    pub head_dim: usize,
}

impl Heads {
    /// Width of a packed row of queries, keys and values.
    pub fn packed(&self) -> usize {
        (self.n_head + 2 * self.n_kv_head) * self.head_dim
    }

    /// Width of a row of outputs, H * D.
    pub fn width(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Query heads that share one key-value head.
    pub fn group(&self) -> usize {
        self.n_head / self.n_kv_head
    }

    /// The key-value head of a query head.
    pub fn kv_of(&self, head: usize) -> usize {
        head / self.group()
    }

    /// Where a query head starts in a packed row.
    pub fn query(&self, head: usize) -> usize {
        head * self.head_dim
    }

    /// Where a key head starts in a packed row.
    pub fn key(&self, kv_head: usize) -> usize {
        (self.n_head + kv_head) * self.head_dim
    }

    /// Where a value head starts in a packed row.
    pub fn value(&self, kv_head: usize) -> usize {
        (self.n_head + self.n_kv_head + kv_head) * self.head_dim
    }

    /// B and T of packed rows [B, T, (H + 2K) * D].
    ///
    /// # Panics
    /// If the shape is another, or the heads do not fit together.
    pub fn batch_and_time(&self, shape: &[usize]) -> (usize, usize) {
        assert!(self.head_dim > 0 && self.n_kv_head > 0 && self.n_head > 0, "heads of no size: {self:?}");
        assert_eq!(self.n_head % self.n_kv_head, 0, "key-value heads that do not divide the query heads");
        let &[b, t, packed] = shape else { panic!("packed queries, keys and values of shape {shape:?}") };
        assert_eq!(packed, self.packed(), "width of packed queries, keys and values");
        (b, t)
    }
}
