//! BERT's own names.

use serde_json::{Value, json};

use super::names::{
    BlockNames, HeadActivation, MaskedLmNames, Names, ProjectionNames, SequenceNames,
    TransformNames,
};

/// Within a block; RoBERTa and ELECTRA have the same.
pub(super) const BLOCK: BlockNames = BlockNames {
    projections: ProjectionNames::Separate {
        query: "attention.self.query",
        key: "attention.self.key",
        value: "attention.self.value",
    },
    attention: "attention.self",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    gate: Some("intermediate.gate"),
    up: "intermediate.dense",
    down: "output.dense",
    feed_forward_norm: "output.LayerNorm",
};

pub(super) const NAMES: Names = Names {
    base: "bert",
    words: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    token_types: "embeddings.token_type_embeddings",
    embeddings_norm: "embeddings.LayerNorm",
    blocks: "encoder.layer",
    block: BLOCK,
    final_norm: "encoder.final_norm",
    masked_lm: MaskedLmNames {
        transform: TransformNames {
            dense: "cls.predictions.transform.dense",
            activation: HeadActivation::OfBlocks,
            norm: Some("cls.predictions.transform.LayerNorm"),
        },
        bias: "cls.predictions.bias",
        output: "cls.predictions.decoder",
    },
    sequence: SequenceNames {
        drops_first: false,
        transform: TransformNames {
            dense: "bert.pooler.dense",
            activation: HeadActivation::Tanh,
            norm: None,
        },
        output: "classifier",
    },
    tokens: None,
    answers: "qa_outputs",
};

pub(super) fn fixed() -> Value {
    json!({
        "position_embedding_type": "absolute",
        "is_decoder": false,
        "add_cross_attention": false,
        "tie_word_embeddings": true,
    })
}
