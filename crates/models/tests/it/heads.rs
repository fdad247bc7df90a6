//! BERT's other heads against transformers' recorded results; additions to losses against
//! their formulas.

use bert4rs_models::bert::{
    BertConfig, BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification,
    BertForTokenClassification, BertInput, LogitsOf, MlmLoss,
};
use bert4rs_models::loss::{self, IGNORED, LossOptions};
use bert4rs_models::mask;
use bert4rs_tensor_core::attention::AttentionImplementation::Fused;
use bert4rs_tensor_core::param::{ParamPath, ParamStore};
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::support::{Vectors, assert_close, loss_options};

struct Recorded {
    encoder: Vectors,
    heads: Vectors,
    padding: Tensor,
    config: BertConfig,
}

impl Recorded {
    fn load() -> Self {
        let encoder = Vectors::load("bert");
        let padding = mask::padding(encoder.tensor("attention_mask"));
        let config = encoder.config();
        Self { encoder, heads: Vectors::load("bert_heads"), padding, config }
    }

    fn input(&self) -> BertInput<'_> {
        BertInput {
            token_type_ids: Some(self.encoder.tensor("token_type_ids")),
            mask: Some(&self.padding),
            ..BertInput::new(self.encoder.tensor("input_ids"))
        }
    }

    /// A model with the recorded weights of the encoder and of the head `name`.
    fn model<M>(&self, name: &str, make: impl Fn(&ParamPath) -> bert4rs_models::Result<M>) -> M {
        let mut store = ParamStore::new(Device::Cpu, Kind::Float);
        let model = make(&store.root()).unwrap();
        let head = self.heads.under(&format!("{name}.weight."));
        for param in store.params_mut() {
            let weight = head.get(&param.name).map(Tensor::shallow_clone);
            let weight = weight.unwrap_or_else(|| {
                self.encoder.tensor(&format!("weight.{}", param.name)).shallow_clone()
            });
            param.set(&weight).unwrap();
        }
        model
    }
}

#[test]
fn classes_of_sequences_equal_transformers() {
    let all = Recorded::load();
    let model = all
        .model("classes", |path| BertForSequenceClassification::new(path, &all.config, 3, Fused));
    let logits = model.logits(&all.input(), false).unwrap();
    assert_close("logits", &logits, all.heads.tensor("classes.logits"), 1e-5);
    let labels = all.heads.tensor("classes.labels");
    let loss = model.loss(&all.input(), labels, false).unwrap();
    assert_close("loss", &loss, all.heads.tensor("classes.loss"), 1e-5);
    let text = model.loss(&all.input(), &labels.to_kind(Kind::Float), false).unwrap_err();
    assert!(text.to_string().contains("Int64 of shape [3]"), "{text}");
}

#[test]
fn one_output_is_a_number_with_a_squared_loss() {
    let config = Recorded::load().config;
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = BertForSequenceClassification::new(&store.root(), &config, 1, Fused).unwrap();
    let ids = Tensor::from_slice(&[3i64, 4, 5, 6]).view([2, 2]);
    let found = model.logits(&BertInput::new(&ids), false).unwrap().squeeze_dim(1);
    let loss = model.loss(&BertInput::new(&ids), &(found + 2.0), false).unwrap();
    assert_close("loss", &loss, &Tensor::from(4f32), 1e-5);
}

#[test]
fn classes_of_tokens_equal_transformers() {
    let all = Recorded::load();
    let model =
        all.model("tokens", |path| BertForTokenClassification::new(path, &all.config, 3, Fused));
    let logits = model.logits(&all.input(), false).unwrap();
    assert_close("logits", &logits, all.heads.tensor("tokens.logits"), 1e-5);
    let loss = model.loss(&all.input(), all.heads.tensor("tokens.labels"), false).unwrap();
    assert_close("loss", &loss, all.heads.tensor("tokens.loss"), 1e-5);
}

#[test]
fn answers_equal_transformers() {
    let all = Recorded::load();
    let model =
        all.model("answers", |path| BertForQuestionAnswering::new(path, &all.config, Fused));
    let (start, _) = model.logits(&all.input(), false).unwrap();
    assert_close("start", &start, all.heads.tensor("answers.start_logits"), 1e-5);
    let (first, last) =
        (all.heads.tensor("answers.start_positions"), all.heads.tensor("answers.end_positions"));
    let loss = model.loss(&all.input(), first, last, false).unwrap();
    assert_close("loss", &loss, all.heads.tensor("answers.loss"), 1e-5);
}

#[test]
fn the_pretraining_heads_equal_transformers() {
    let all = Recorded::load();
    let model = all.model("pretraining", |path| BertForPreTraining::new(path, &all.config, Fused));
    let hidden = model.masked().encode(&all.input(), false).unwrap();
    let next = model.next_sentence_logits(&hidden);
    assert_close("next", &next, all.heads.tensor("pretraining.seq_relationship_logits"), 1e-5);
    let labels = all.heads.tensor("pretraining.labels").flatten(0, 1);
    let positions = labels.ne(IGNORED).nonzero().squeeze_dim(1);
    let masked = labels.index_select(0, &positions);
    let next = all.heads.tensor("pretraining.next_sentence_label");
    for logits_of in [LogitsOf::AllTokens, LogitsOf::MaskedOnly] {
        let loss = model.loss(&all.input(), &positions, &masked, next, logits_of, false).unwrap();
        assert_close("loss", &loss, all.heads.tensor("pretraining.loss"), 1e-5);
        let how = MlmLoss { options: loss_options(Fused), ..logits_of.into() };
        let loss = model.loss(&all.input(), &positions, &masked, next, how, false).unwrap();
        assert_close("loss", &loss, all.heads.tensor("pretraining.loss"), 1e-5);
    }
}

#[test]
fn additions_to_the_loss_are_their_formulas() {
    let logits = Tensor::randn([7, 11], (Kind::Double, Device::Cpu));
    let labels = Tensor::from_slice(&[1i64, 4, IGNORED, 10, 0, IGNORED, 3]);
    let smooth = LossOptions { label_smoothing: 0.1, z_loss: 0.0, ..LossOptions::default() };
    let weight = None::<Tensor>;
    let mean = bert4rs_tensor_core::Reduction::Mean;
    let want = logits.cross_entropy_loss(&labels, weight, mean, IGNORED, 0.1);
    let found = loss::cross_entropy_with(&logits, &labels, &smooth);
    assert_close("smoothed", &found, &want, 1e-12);

    let z = LossOptions { label_smoothing: 0.0, z_loss: 0.5, ..LossOptions::default() };
    let counted = labels.ne(IGNORED).nonzero().squeeze_dim(1);
    let log_z = logits
        .index_select(0, &counted)
        .exp()
        .sum_dim_intlist([1i64].as_slice(), false, None)
        .log();
    let want = loss::cross_entropy(&logits, &labels) + log_z.square().mean(None) * 0.5;
    assert_close("z", &loss::cross_entropy_with(&logits, &labels, &z), &want, 1e-12);
    assert!(
        LossOptions { label_smoothing: 1.0, z_loss: 0.0, ..LossOptions::default() }
            .validate()
            .is_err()
    );
    assert!(
        LossOptions { label_smoothing: 0.0, z_loss: -1.0, ..LossOptions::default() }
            .validate()
            .is_err()
    );
}
