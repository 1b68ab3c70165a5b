//! What a parameter does in its model: this decides what the optimizer does with it.

/// The role of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The token embedding [V, C]; with tied embeddings it is the output layer too.
    Embedding,
    /// The embedding of positions [T, C].
    PositionEmbedding,
    /// The weight of a norm.
    Norm,
    /// The bias of a norm or of a linear layer.
    Bias,
    /// The projection to queries, keys and values of a block, whose rows stand in this order.
    AttentionQkv {
        /// Rows of the queries.
        queries: usize,
        /// Rows of the keys, and of the values.
        keys: usize,
    },
    /// The projection back from attention.
    AttentionProj,
    /// The projection to the inner width of the feed-forward layer; a gate's rows stand first.
    MlpUp {
        /// Rows of the gate: 0 where there is none.
        gate: usize,
        /// Rows of the rest.
        up: usize,
    },
    /// The projection back from the inner width of the feed-forward layer.
    MlpDown,
    /// The output layer [V, C] where it is not the token embedding.
    Head,
    /// One of the two matrices of an adapter.
    Adapter,
    /// A parameter of no model: the operand of an operator that is tested or measured alone.
    Operand {
        /// Whether it has two or more dimensions.
        matrix: bool,
    },
}

impl Role {
    /// The role of a parameter that belongs to no model.
    pub fn operand(shape: &[usize]) -> Role {
        Role::Operand { matrix: shape.len() >= 2 }
    }

    /// Whether weight decay acts on it: on matrices, embeddings included, and not on norms and biases (the nanoGPT rule).
    pub fn decays(self) -> bool {
        match self {
            Role::Norm | Role::Bias => false,
            Role::Operand { matrix } => matrix,
            Role::Embedding
            | Role::PositionEmbedding
            | Role::AttentionQkv { .. }
            | Role::AttentionProj
            | Role::MlpUp { .. }
            | Role::MlpDown
            | Role::Head
            | Role::Adapter => true,
        }
    }

    /// The rows of the matrices that a parameter packs, in order; empty for what is one matrix, or none.
    pub fn parts(self) -> Vec<usize> {
        match self {
            Role::AttentionQkv { queries, keys } => vec![queries, keys, keys],
            Role::MlpUp { gate, up } if gate > 0 => vec![gate, up],
            _ => Vec::new(),
        }
    }

    /// Whether its rows are those of the vocabulary.
    pub fn of_vocabulary(self) -> bool {
        matches!(self, Role::Embedding | Role::Head)
    }
}
