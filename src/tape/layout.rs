//! The layout of the parameter arena: names, shapes and places of all parameters within the flat buffers.
//!
//! A matrix may have room for more rows behind its own ([`Layout::push_as`]): zeros that only products read, as the gaps of
//! alignment are. Names, shapes, counts, hashes and files know nothing of them: files keep the *stored* elements, those of
//! the same layout without such room.

use std::ops::Range;

use super::role::Role;

/// Each parameter starts at a multiple of this many elements, so that vector loads are aligned. The gap holds zeros.
pub const ALIGN: usize = 16;

/// Which parameter: its place in the arena's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// A parameter's name, shape and place.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// The name, such as `h.0.attn.qkv.weight`.
    pub name: String,
    /// Extents; linear weights are [out, in].
    pub shape: Vec<usize>,
    /// First element in the flat buffer.
    pub offset: usize,
    /// Rows of zeros behind the parameter's own, for products that want an aligned number of rows.
    pub spare_rows: usize,
    /// What it does in its model.
    pub role: Role,
}

impl ParamInfo {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape as matrix products see it: with the spare rows.
    pub fn padded_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        shape[0] += self.spare_rows;
        shape
    }

    /// Elements that the parameter takes in a file's flat buffers: its own, and the gap behind them.
    fn stored(&self) -> usize {
        self.len().next_multiple_of(ALIGN)
    }

    /// Elements that the parameter takes in the flat buffer: its own, spare rows, and the gap behind them.
    fn reserved(&self) -> usize {
        let spare = if self.spare_rows == 0 { 0 } else { self.len() / self.shape[0] * self.spare_rows };
        (self.len() + spare).next_multiple_of(ALIGN)
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The range of the flat buffer.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// Whether weight decay acts on it.
    pub fn decays(&self) -> bool {
        self.role.decays()
    }
}

/// Names, shapes and places of all parameters of a model.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Layout {
    infos: Vec<ParamInfo>,
    len: usize,
    /// Elements of the parameters that are not trained: the first ones.
    frozen: usize,
}

impl Layout {
    /// Appends a parameter of no model and gives its id.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize]) -> ParamId {
        self.push_as(name, shape, Role::operand(shape), shape[0])
    }

    /// Appends a parameter with room for `rows` rows in all, and gives its id. The rows beyond its own hold zeros.
    ///
    /// # Panics
    /// If `rows` are fewer than the parameter has.
    pub fn push_as(&mut self, name: impl Into<String>, shape: &[usize], role: Role, rows: usize) -> ParamId {
        assert!(rows >= shape[0], "{rows} rows cannot hold a parameter of shape {shape:?}");
        let spare_rows = rows - shape[0];
        let info = ParamInfo { name: name.into(), shape: shape.to_vec(), offset: self.len, spare_rows, role };
        self.len += info.reserved();
        self.infos.push(info);
        ParamId(self.infos.len() - 1)
    }

    /// Makes all parameters so far ones that are not trained.
    pub fn freeze(&mut self) {
        self.frozen = self.len;
    }

    /// Elements of the flat buffer before those that are trained, gaps included.
    pub fn frozen(&self) -> usize {
        self.frozen
    }

    /// Elements of the flat buffers of gradients and moments, gaps included.
    pub fn trained(&self) -> usize {
        self.len - self.frozen
    }

    /// Elements of the flat buffers of gradients and moments as files keep them: gaps included, spare rows not.
    pub fn stored(&self) -> usize {
        self.infos.iter().filter(|info| info.offset >= self.frozen).map(ParamInfo::stored).sum()
    }

    /// Which ranges of the buffers of gradients and moments hold these stored elements, in order. Where no parameter has
    /// spare rows, that is the range itself.
    ///
    /// # Panics
    /// If the range reaches beyond [`Layout::stored`].
    pub fn pieces(&self, stored: Range<usize>) -> Vec<Range<usize>> {
        assert!(stored.end <= self.stored(), "{stored:?} of {} stored elements", self.stored());
        if self.stored() == self.trained() {
            return vec![stored];
        }
        let trained = self.infos.iter().filter(|info| info.offset >= self.frozen);
        pieces(trained, self.frozen, stored)
    }

    /// Which ranges of the flat buffer hold the elements before those that are trained, spare rows not included.
    pub fn frozen_pieces(&self) -> Vec<Range<usize>> {
        let frozen = || self.infos.iter().take_while(|info| info.offset < self.frozen);
        pieces(frozen(), 0, 0..frozen().map(ParamInfo::stored).sum())
    }

    /// Whether a parameter is trained.
    pub fn is_trained(&self, id: ParamId) -> bool {
        self.infos[id.0].offset >= self.frozen
    }

    /// The parameters that are trained, each with its range in the buffers of gradients and moments.
    pub fn trained_infos(&self) -> impl Iterator<Item = (&ParamInfo, Range<usize>)> {
        let trained = self.infos.iter().filter(|info| info.offset >= self.frozen);
        trained.map(|info| (info, info.offset - self.frozen..info.offset - self.frozen + info.len()))
    }

    /// All parameters in arena order.
    pub fn infos(&self) -> &[ParamInfo] {
        &self.infos
    }

    /// One parameter.
    pub fn info(&self, id: ParamId) -> &ParamInfo {
        &self.infos[id.0]
    }

    /// The parameter of this name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.infos.iter().position(|info| info.name == name).map(ParamId)
    }

    /// Elements of the flat buffer, gaps included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements of all parameters, gaps not included.
    pub fn parameters(&self) -> usize {
        self.infos.iter().map(ParamInfo::len).sum()
    }

    /// The parameter that holds the element `index` of the flat buffer (None in a gap or past the end).
    pub fn owner(&self, index: usize) -> Option<ParamId> {
        let after = self.infos.partition_point(|info| info.offset <= index);
        let id = after.checked_sub(1)?;
        self.infos[id].range().contains(&index).then_some(ParamId(id))
    }
}

/// The ranges of a buffer, which begins at `first` of the flat buffer with the first of `infos`, that hold a range of these
/// parameters' stored elements; ranges that touch are one.
fn pieces<'i>(infos: impl Iterator<Item = &'i ParamInfo>, first: usize, stored: Range<usize>) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut before = 0;
    for info in infos {
        let (start, end) = (stored.start.max(before), stored.end.min(before + info.stored()));
        if start < end {
            let shift = info.offset - first;
            let piece = start - before + shift..end - before + shift;
            match found.last_mut().filter(|last| last.end == piece.start) {
                Some(last) => last.end = piece.end,
                None => found.push(piece),
            }
        }
        before += info.stored();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_rows_stand_in_the_buffer_and_not_in_what_is_stored() {
        let mut layout = Layout::default();
        let frozen = layout.push_as("frozen", &[5, 4], Role::Embedding, 8);
        layout.freeze();
        let a = layout.push_as("a", &[5, 6], Role::Embedding, 16);
        let b = layout.push("b", &[7]);
        let c = layout.push_as("c", &[3, 16], Role::Embedding, 4);
        let d = layout.push("d", &[16]);
        let offsets = [frozen, a, b, c, d].map(|id| layout.info(id).offset);
        assert_eq!(offsets, [0, 32, 128, 144, 208]);
        assert_eq!((layout.frozen(), layout.trained(), layout.stored()), (32, 192, 32 + 16 + 48 + 16));
        assert_eq!(layout.parameters(), 20 + 30 + 7 + 48 + 16);
        assert_eq!(layout.info(a).padded_shape(), [16, 6]);
        assert_eq!((layout.owner(32 + 29), layout.owner(32 + 30)), (Some(a), None), "a spare row has no owner");
        let ends = |pieces: Vec<Range<usize>>| pieces.iter().map(|piece| (piece.start, piece.end)).collect::<Vec<_>>();
        assert_eq!(ends(layout.frozen_pieces()), [(0, 32)]);
        assert_eq!(ends(layout.pieces(0..112)), [(0, 32), (96, 160), (176, 192)]);
        assert_eq!(ends(layout.pieces(16..50)), [(16, 32), (96, 114)]);
        assert!(layout.pieces(96..96).is_empty());
        for cut in 0..=112 {
            let both = [layout.pieces(0..cut), layout.pieces(cut..112)].concat();
            assert_eq!(both.iter().map(|piece| piece.len()).sum::<usize>(), 112);
        }
    }

    #[test]
    fn without_spare_rows_what_is_stored_is_the_buffer() {
        let mut layout = Layout::default();
        layout.push("a", &[5, 6]);
        layout.push("b", &[7]);
        assert_eq!(layout.stored(), layout.trained());
        for range in [3..40, 4..4] {
            assert_eq!(layout.pieces(range.clone()), vec![range]);
        }
        assert!(layout.frozen_pieces().is_empty());
    }
}
