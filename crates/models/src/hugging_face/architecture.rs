//! Which classes of transformers there are.

use std::fmt;

/// A family of models: `model_type` in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// BERT.
    Bert,
    /// RoBERTa.
    Roberta,
    /// XLM-R.
    XlmRoberta,
    /// DistilBERT.
    DistilBert,
    /// ELECTRA.
    Electra,
    /// ModernBERT.
    ModernBert,
    /// GPT-2.
    Gpt2,
    /// T5.
    T5,
}

impl ModelType {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Bert,
        Self::Roberta,
        Self::XlmRoberta,
        Self::DistilBert,
        Self::Electra,
        Self::ModernBert,
        Self::Gpt2,
        Self::T5,
    ];

    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::XlmRoberta => "xlm-roberta",
            Self::DistilBert => "distilbert",
            Self::Electra => "electra",
            Self::ModernBert => "modernbert",
            Self::Gpt2 => "gpt2",
            Self::T5 => "t5",
        }
    }

    /// The one of this name, which `bert4rs-` stands before where a model has
    /// [overrides](crate::overrides).
    pub fn named(name: &str) -> Option<Self> {
        let name = name.strip_prefix("bert4rs-").unwrap_or(name);
        Self::ALL.into_iter().find(|model_type| model_type.name() == name)
    }

    /// What its classes' names begin with.
    fn class_prefix(self) -> &'static str {
        match self {
            Self::Bert => "Bert",
            Self::Roberta => "Roberta",
            Self::XlmRoberta => "XLMRoberta",
            Self::DistilBert => "DistilBert",
            Self::Electra => "Electra",
            Self::ModernBert => "ModernBert",
            Self::Gpt2 => "GPT2",
            Self::T5 => "T5",
        }
    }

    /// Its heads.
    pub fn heads(self) -> &'static [HeadKind] {
        use HeadKind::{
            Base, CausalLm, ConditionalGeneration, Encoder, MaskedLm, PreTraining,
            QuestionAnswering, SequenceClassification, TokenClassification,
        };
        const FINE_TUNED: &[HeadKind] =
            &[Base, MaskedLm, SequenceClassification, TokenClassification, QuestionAnswering];
        const PRETRAINED: &[HeadKind] = &[
            Base,
            MaskedLm,
            PreTraining,
            SequenceClassification,
            TokenClassification,
            QuestionAnswering,
        ];
        match self {
            Self::Bert | Self::Electra => PRETRAINED,
            Self::Roberta | Self::XlmRoberta | Self::DistilBert | Self::ModernBert => FINE_TUNED,
            Self::Gpt2 => &[Base, CausalLm, SequenceClassification],
            Self::T5 => &[ConditionalGeneration, Encoder, SequenceClassification],
        }
    }

    /// Its class with that head, if there is one.
    pub fn with(self, head: HeadKind) -> Option<Architecture> {
        self.heads().contains(&head).then_some(Architecture { model_type: self, head })
    }
}

/// What stands on the hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// Nothing, or what files have beside: BERT's pooler. GPT-2's head is its token table, so that
    /// it loads as one with [`CausalLm`](Self::CausalLm).
    Base,
    /// Masked tokens.
    MaskedLm,
    /// BERT: masked tokens and the next sentence. ELECTRA: replaced tokens.
    PreTraining,
    /// A class for each sequence.
    SequenceClassification,
    /// A class for each token.
    TokenClassification,
    /// The start and end of an answer.
    QuestionAnswering,
    /// The next token.
    CausalLm,
    /// The next token of the decoder.
    ConditionalGeneration,
    /// The encoder alone, of a model that has a decoder too.
    Encoder,
}

impl HeadKind {
    /// What a class's name ends with.
    fn class_suffix(self) -> &'static str {
        match self {
            Self::Base => "Model",
            Self::MaskedLm => "ForMaskedLM",
            Self::PreTraining => "ForPreTraining",
            Self::SequenceClassification => "ForSequenceClassification",
            Self::TokenClassification => "ForTokenClassification",
            Self::QuestionAnswering => "ForQuestionAnswering",
            Self::CausalLm => "LMHeadModel",
            Self::ConditionalGeneration => "ForConditionalGeneration",
            Self::Encoder => "EncoderModel",
        }
    }
}

/// A class of transformers that we read and write: a family with a head that it has. Its text is
/// the class's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    model_type: ModelType,
    head: HeadKind,
}

impl Architecture {
    /// `BertForMaskedLM`.
    pub const BERT_FOR_MASKED_LM: Self =
        Self { model_type: ModelType::Bert, head: HeadKind::MaskedLm };
    /// `GPT2LMHeadModel`.
    pub const GPT2_LM_HEAD_MODEL: Self =
        Self { model_type: ModelType::Gpt2, head: HeadKind::CausalLm };
    /// `T5ForConditionalGeneration`.
    pub const T5_FOR_CONDITIONAL_GENERATION: Self =
        Self { model_type: ModelType::T5, head: HeadKind::ConditionalGeneration };

    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        ModelType::ALL.into_iter().flat_map(|model_type| {
            model_type.heads().iter().map(move |&head| Self { model_type, head })
        })
    }

    /// The one of this name in transformers and in `config.json`.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|architecture| architecture.to_string() == name)
    }

    /// The family's class that gives hidden states; GPT-2's has its token table as head.
    pub fn without_head(model_type: ModelType) -> Self {
        let head = match model_type {
            ModelType::Gpt2 => HeadKind::CausalLm,
            ModelType::T5 => HeadKind::Encoder,
            _ => HeadKind::Base,
        };
        Self { model_type, head }
    }

    /// Its family.
    pub fn model_type(self) -> ModelType {
        self.model_type
    }

    /// What stands on the hidden states.
    pub fn head(self) -> HeadKind {
        self.head
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let part = match (self.model_type, self.head) {
            // transformers' class without it runs the decoder too.
            (ModelType::T5, HeadKind::SequenceClassification) => "Encoder",
            _ => "",
        };
        write!(f, "{}{part}{}", self.model_type.class_prefix(), self.head.class_suffix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_names_its_architecture() {
        for architecture in Architecture::all() {
            assert_eq!(Architecture::named(&architecture.to_string()), Some(architecture));
        }
        assert_eq!(Architecture::GPT2_LM_HEAD_MODEL.to_string(), "GPT2LMHeadModel");
        assert_eq!(Architecture::named("BertForMaskedLM"), Some(Architecture::BERT_FOR_MASKED_LM));
        assert_eq!(Architecture::named("T5Model"), None);
        // It has a decoder, which ours of that head has not.
        assert_eq!(Architecture::named("T5ForSequenceClassification"), None);
        assert!(Architecture::named("T5EncoderForSequenceClassification").is_some());
    }
}
