//! The layout of the parameter arena: names, shapes and places of all parameters within the flat buffers.

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
}

impl ParamInfo {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The range of the flat buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// Whether weight decay acts on it: tensors of two or more dimensions, embeddings included (the nanoGPT rule).
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
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
    /// Appends a parameter and gives its id.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize]) -> ParamId {
        let info = ParamInfo { name: name.into(), shape: shape.to_vec(), offset: self.len };
        self.len += info.len().next_multiple_of(ALIGN);
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

    /// Whether a parameter is trained.
    pub fn is_trained(&self, id: ParamId) -> bool {
        self.infos[id.0].offset >= self.frozen
    }

    /// The parameters that are trained, each with its range in the buffers of gradients and moments.
    pub fn trained_infos(&self) -> impl Iterator<Item = (&ParamInfo, std::ops::Range<usize>)> {
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
