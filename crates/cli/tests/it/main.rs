//! The program as its users run it: one binary, a module for each subject.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod answers;
mod bad_input;
mod batches;
mod cache;
mod completions;
mod data;
mod distributed;
mod distributed_rules;
mod finetune;
mod finetune_lasting;
mod forward;
mod init;
mod lasting;
mod lora;
mod models;
mod output;
mod presets;
mod processor;
mod profile;
mod rehearsal;
mod resume;
mod run_folder;
mod runs;
mod seq2seq;
mod similarity;
mod support;
mod text;
mod text_choices;
mod threads;
mod tokenizer;
mod train;
mod vocabulary;
