//! `bert4rs runs`, `bert4rs report` and `bert4rs train --sweep`.

use crate::support::Sandbox;

#[test]
fn runs_are_listed_and_held_against_each_other() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    assert!(sandbox.run(&["runs"]).succeeds().stdout.contains("no runs in runs"));
    sandbox.train(&["--out", "runs/one"]).succeeds();
    sandbox.train(&["--out", "runs/<two>", "--set", "optimizer.adamw.lr=0.002"]).succeeds();
    sandbox.train(&["--out", "runs/bad", "--set", "optimizer.adamw.lr=1e30"]).fails(&["lr"]);
    // A run whose process was killed left no word of its end.
    sandbox.train(&["--out", "runs/killed"]).succeeds();
    sandbox.write("runs/killed/run.json", r#"{ "version": "0.1.0", "began_at_s": 1 }"#);
    std::fs::create_dir(sandbox.path("runs/mine")).unwrap();

    let list = sandbox.run(&["runs"]).succeeds().stdout;
    let line = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    assert!(line("one").contains("finished") && line("one").contains("KiB"), "{list}");
    assert!(line("bad").contains("failed"), "{list}");
    assert!(line("killed").contains("interrupted"), "{list}");
    assert_eq!(line("mine"), "", "no run: {list}");
    let objects = sandbox.run(&["runs", "runs", "--json"]).succeeds().stdout;
    let bad = objects.lines().find(|line| line.contains("runs/bad")).unwrap();
    let bad: serde_json::Value = serde_json::from_str(bad).unwrap();
    assert!(bad["reason"].as_str().unwrap().contains("lr"), "{bad}");

    sandbox.run(&["report", "runs/one", "runs/<two>", "runs/bad"]).succeeds();
    let page = std::fs::read_to_string(sandbox.path("report.html")).unwrap();
    for part in ["optimizer.adamw.lr", "0.002", "&lt;two&gt;", "failed", "Tokens a second"] {
        assert!(page.contains(part), "no {part}");
    }
    assert!(!page.contains("<two>") && !page.contains("seq_len"), "only what differs");
    for outside in ["http:", "https:", "url(", "<script", "<link", "src=", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    sandbox.run(&["report", "runs/one"]).refuses(&["report.html", "--overwrite"]);
    sandbox.run(&["report", "runs/mine", "--out", "b.html"]).refuses(&["runs/mine", "no run"]);
}

#[test]
fn a_sweep_trains_every_combination_and_compares_them() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let sweep = ["--sweep", "optimizer.adamw.lr=1e-4,1e-3", "--sweep", "seed=1,2"];
    let more = ["--out", "sweep", "--max-steps", "2"];
    let shown = sandbox.train(&[&sweep, &more[..]].concat()).succeeds().stdout;
    let folders = ["lr=1e-4,seed=1", "lr=1e-4,seed=2", "lr=1e-3,seed=1", "lr=1e-3,seed=2"];
    let mut expected: Vec<String> =
        (1..).zip(folders).map(|(number, folder)| format!("{number:02}-{folder}")).collect();
    for folder in &expected {
        assert!(shown.contains(&format!("\n{folder}  finished")), "{folder}: {shown}");
    }
    let config = std::fs::read_to_string(sandbox.path("sweep/04-lr=1e-3,seed=2/config.toml"));
    assert!(config.unwrap().starts_with("seed = 2\n"));
    expected.push("report.html".into());
    assert_eq!(sandbox.list("sweep"), expected);

    sandbox.train(&[&sweep, &more[..]].concat()).refuses(&["sweep", "--overwrite"]);
    sandbox.train(&["--sweep", "model.num_heads=2,5", "--out", "no"]).refuses(&["num_heads", "5"]);
    sandbox.train(&["--sweep", "seed", "--out", "no"]).refuses(&["--sweep", "KEY=A,B"]);
    assert_eq!(sandbox.list("no"), [""; 0]);
}
