//! `bert4rs predict` and `bert4rs evaluate`: a model for a task on a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use bert4rs_train::finetune::answer::AnswerOptions;
use bert4rs_train::finetune::causal::CompletionColumns;
use bert4rs_train::finetune::classify::TextColumns;
use bert4rs_train::finetune::rank::RelevanceColumns;
use bert4rs_train::finetune::seq2seq::SourceColumns;
use bert4rs_train::finetune::similarity::ComparisonColumns;
use bert4rs_train::finetune::tag::WordColumns;
use bert4rs_train::finetune::use_folder::{
    AnswerUse, FolderUse, WritingUse, evaluate_file, predict_file,
};
use bert4rs_train::output::print_line;
use bert4rs_train::{Error, Result};
use serde_json::{Map, Value, json};

use super::{output_file, remark};
use crate::finetune_flags::{
    AnswerWindowFlags, EvaluateFlags, PredictFlags, TaskModelFlags, TextColumnFlags,
    WordColumnFlags, WritingFlags,
};

pub(crate) fn predict(flags: &PredictFlags) -> Result<ExitCode> {
    let mut how = how(&flags.of)?;
    how.answers.listed = flags.n_best;
    let Some(path) = &flags.output else {
        predict_file(&how, &mut |object| print_line(&object.to_string()))?;
        return Ok(ExitCode::SUCCESS);
    };
    output_file(path, flags.overwrite, &how.model, &[&how.data])?;
    // Under another name until it is whole, so that what is read elsewhere is never half.
    let partial = path.with_extension("partial");
    let count = write(&how, &partial).inspect_err(|_| drop(std::fs::remove_file(&partial)))?;
    std::fs::rename(&partial, path).map_err(io(path))?;
    remark(&format!("{count} predictions written to {}", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn write(how: &FolderUse, path: &Path) -> Result<usize> {
    let mut file = BufWriter::new(File::create(path).map_err(io(path))?);
    let mut write = |object: Value| writeln!(file, "{object}").map_err(io(path));
    let count = predict_file(how, &mut write)?;
    file.flush().map_err(io(path))?;
    Ok(count)
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

pub(crate) fn evaluate(flags: &EvaluateFlags) -> Result<ExitCode> {
    let found = evaluate_file(&how(&flags.of)?)?;
    if flags.json {
        let score = |(name, value, interval): &(String, f64, Option<_>)| {
            let interval = interval.map(|at: bert4rs_train::scores::bootstrap::ScoreInterval| {
                json!([at.low, at.high])
            });
            (name.clone(), json!({ "value": value, "interval_95": interval }))
        };
        let scores: Map<String, Value> = found.scores.iter().map(score).collect();
        let object = json!({ "examples": found.examples, "loss": found.loss, "scores": scores });
        print_line(&object.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    print_line(&format!("{} examples", found.examples))?;
    for (name, value, interval) in &found.scores {
        let interval = interval.map(|at| format!("  (95%: {:.4} to {:.4})", at.low, at.high));
        print_line(&format!("{name:<12} {value:.4}{}", interval.unwrap_or_default()))?;
    }
    if let Some(loss) = found.loss {
        print_line(&format!("{:<12} {loss:.4}", "loss"))?;
    }
    found.details.iter().try_for_each(|line| print_line(line))?;
    Ok(ExitCode::SUCCESS)
}

fn how(flags: &TaskModelFlags) -> Result<FolderUse> {
    let options = flags.model.options()?;
    Ok(FolderUse {
        model: flags.model.model.clone(),
        data: flags.data.clone(),
        texts: texts(&flags.texts),
        words: words(&flags.words),
        completions: completions(flags),
        answers: answers(&flags.answers),
        writing: writing(&flags.writing),
        compared: compared(flags),
        ranked: ranked(flags),
        max_length: flags.max_length,
        batch_size: flags.batch_size,
        device: options.device,
        kind: options.kind,
        attention: options.attention,
    })
}

fn texts(flags: &TextColumnFlags) -> TextColumns {
    let or = |value: &Option<String>, default: String| value.clone().unwrap_or(default);
    let default = TextColumns::default();
    TextColumns {
        text: or(&flags.pair.labelled.text_column, default.text),
        text_pair: or(&flags.pair.text_pair_column, default.text_pair),
        label: or(&flags.pair.labelled.label_column, default.label),
        label_separator: or(&flags.label_separator, default.label_separator),
    }
}

fn answers(flags: &AnswerWindowFlags) -> AnswerUse {
    let default = AnswerOptions::default();
    let or = |value: Option<u32>, default: usize| value.map_or(default, |value| value as usize);
    AnswerUse {
        stride: or(flags.stride, default.stride),
        longest: or(flags.longest_answer, default.longest),
        no_answer_threshold: flags.no_answer_threshold,
        listed: 0,
    }
}

fn writing(flags: &WritingFlags) -> WritingUse {
    let default = SourceColumns::default();
    let number = |value: Option<u32>| value.map(|value| value as usize);
    WritingUse {
        columns: SourceColumns {
            source: flags.source_column.clone().unwrap_or(default.source),
            target: flags.target_column.clone().unwrap_or(default.target),
        },
        prefix: flags.prefix.clone(),
        max_target_length: number(flags.max_target_length),
        beams: number(flags.beams),
    }
}

fn completions(flags: &TaskModelFlags) -> CompletionColumns {
    let or = |value: &Option<String>, default: String| value.clone().unwrap_or(default);
    let (columns, default) = (&flags.completions, CompletionColumns::default());
    CompletionColumns {
        prompt: or(&columns.prompt_column, default.prompt),
        completion: or(&columns.completion_column, default.completion),
        text: or(&flags.texts.pair.labelled.text_column, default.text),
    }
}

fn compared(flags: &TaskModelFlags) -> ComparisonColumns {
    let or = |value: &Option<String>, default: String| value.clone().unwrap_or(default);
    let (texts, default) = (&flags.texts, ComparisonColumns::default());
    ComparisonColumns {
        text: or(&texts.pair.labelled.text_column, default.text),
        text_pair: or(&texts.pair.text_pair_column, default.text_pair),
        negative: or(&flags.negative.negative_column, default.negative),
        score: or(&texts.pair.labelled.label_column, default.score),
    }
}

fn ranked(flags: &TaskModelFlags) -> RelevanceColumns {
    let or = |value: &Option<String>, default: String| value.clone().unwrap_or(default);
    let default = RelevanceColumns::default();
    RelevanceColumns {
        query: or(&flags.query.query_column, default.query),
        text: or(&flags.texts.pair.labelled.text_column, default.text),
        relevance: or(&flags.texts.pair.labelled.label_column, default.relevance),
    }
}

fn words(flags: &WordColumnFlags) -> WordColumns {
    let default = WordColumns::default();
    WordColumns {
        words: flags.words_field.clone().unwrap_or(default.words),
        tags: flags.tags_field.clone().unwrap_or(default.tags),
        word_column: flags.word_column.unwrap_or(default.word_column),
        tag_column: flags.tag_column.unwrap_or(default.tag_column),
    }
}
