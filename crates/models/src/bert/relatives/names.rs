//! What a family's files call the parameters of the shared parts.

use crate::layers::Activation;

/// The names of one family. Those of the encoder stand below `base`, those of heads do not.
#[derive(Debug)]
pub(crate) struct Names {
    /// What names of the encoder begin with in a model with a head, and lack in one without.
    pub(crate) base: &'static str,
    /// The table of tokens.
    pub(crate) words: &'static str,
    /// The table of positions.
    pub(crate) positions: &'static str,
    /// The table of token types.
    pub(crate) token_types: &'static str,
    /// The norm of their sum.
    pub(crate) embeddings_norm: &'static str,
    /// The list of blocks.
    pub(crate) blocks: &'static str,
    /// Within a block.
    pub(crate) block: BlockNames,
    /// After the last block, where norms stand before each half.
    pub(crate) final_norm: &'static str,
    /// The head for masked tokens.
    pub(crate) masked_lm: MaskedLmNames,
    /// The head for a class of each sequence: what comes before the last map.
    pub(crate) sequence: SequenceNames,
    /// What comes before the last map in the heads for tokens and answers.
    pub(crate) tokens: Option<TransformNames>,
    /// The map to the start and the end of an answer.
    pub(crate) answers: &'static str,
}

/// The names within a block.
#[derive(Debug)]
pub(crate) struct BlockNames {
    /// The maps to queries, keys and values.
    pub(crate) projections: ProjectionNames,
    /// What the norms of QK-norm stand below.
    pub(crate) attention: &'static str,
    /// The map of the heads' joint output.
    pub(crate) attention_output: &'static str,
    /// The norm around attention.
    pub(crate) attention_norm: &'static str,
    /// The gate of the feed-forward half, where it is a map of its own.
    pub(crate) gate: Option<&'static str>,
    /// The map to inner features, which begins with the gate where that is no map of its own.
    pub(crate) up: &'static str,
    /// The map back.
    pub(crate) down: &'static str,
    /// The norm around the feed-forward half.
    pub(crate) feed_forward_norm: &'static str,
}

/// The maps to queries, keys and values.
#[derive(Debug)]
pub(crate) enum ProjectionNames {
    /// One each.
    Separate {
        /// To queries.
        query: &'static str,
        /// To keys.
        key: &'static str,
        /// To values.
        value: &'static str,
    },
    /// One for all three.
    Joint(&'static str),
}

/// What a head has for activation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HeadActivation {
    /// That of the blocks.
    OfBlocks,
    /// This one, whatever blocks have.
    Of(Activation),
    /// `tanh`.
    Tanh,
}

/// A map, an activation and, in some heads, a norm.
#[derive(Debug)]
pub(crate) struct TransformNames {
    /// The map.
    pub(crate) dense: &'static str,
    /// The activation.
    pub(crate) activation: HeadActivation,
    /// The norm.
    pub(crate) norm: Option<&'static str>,
}

/// The head for masked tokens.
#[derive(Debug)]
pub(crate) struct MaskedLmNames {
    /// What comes before the output matrix.
    pub(crate) transform: TransformNames,
    /// The output's bias.
    pub(crate) bias: &'static str,
    /// Under which files may hold a copy of the output matrix, which is the table of tokens.
    pub(crate) output: &'static str,
}

/// The head for a class of each sequence.
#[derive(Debug)]
pub(crate) struct SequenceNames {
    /// Whether dropout also acts before the first map.
    pub(crate) drops_first: bool,
    /// What comes before the last map.
    pub(crate) transform: TransformNames,
    /// The last map.
    pub(crate) output: &'static str,
}
