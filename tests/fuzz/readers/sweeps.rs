//! Sweeps: specifications, plans, and what's in a sweep's folder.

use std::fs;
use std::path::{Path, PathBuf};

use peft_bench::study::{ProviderChoice, Study};
use peft_bench::sweep::launch::submissions;
use peft_bench::sweep::{Common, Node, Owner, Plan, Spec, Status, SweepFolder, jobs, named};
use serde_json::json;

use super::{entries, fixture};
use crate::mutate::Form;
use crate::target::{Reader, Seed, Target, told};

pub const SPEC: Reader = Reader {
    name: "sweep-spec",
    one_of: 1,
    make: spec,
};

pub const PLAN: Reader = Reader {
    name: "sweep-plan",
    one_of: 1,
    make: plan,
};

pub const FOLDER: Reader = Reader {
    name: "sweep-folder",
    one_of: 1,
    make: folder_of_a_sweep,
};

const TOML: &str = r#"experiments = ["lora/lora_r8", "lora/lora_r*"]
models = ["synthetic/llama-57m", "synthetic/llama-135m"]
dtypes = ["float32"]
quantizations = ["none", "4bit"]
batch_sizes = [1, 8]
exclude = [{ model = "synthetic/llama-57m", batch_size = 8 }]
options = ["--restarts", "3"]
"#;

fn spec(folder: &Path) -> Target {
    let as_json = json!({
        "experiments": ["lora/lora_r8", "ia3/*"], "models": ["a", "b"], "dtypes": ["float32"],
        "quantizations": ["none", "4bit"], "batch_sizes": [1, 8],
        "exclude": [{"model": "a", "batch_size": 8}], "options": ["--restarts", "3"],
    });
    let path = folder.join("spec.json");
    let text = as_json.to_string().into_bytes();
    let form = Form::of(&path, &text);
    let toml = folder.join("spec.toml");
    Target {
        seeds: vec![
            Seed::of(path, text, form),
            Seed::of(toml, TOML.as_bytes().to_vec(), Form::Bytes),
        ],
        read: Box::new(|seed| {
            let spec = Spec::read(&seed.path).map_err(|error| told(&error))?;
            let combinations = spec.combinations().map_err(|error| told(&error))?;
            for one in combinations.iter().take(10) {
                one.arguments(true);
                let _ = one.to_string();
            }
            Ok(())
        }),
    }
}

/// A plan of two jobs and a refusal, in the folder of a sweep.
fn planned(folder: &Path) -> (SweepFolder, Plan) {
    let spec = Spec {
        experiments: ["lora/lora_r8", "ia3/default", "lora/none"]
            .map(str::to_owned)
            .into(),
        models: vec!["synthetic/llama-57m".to_owned()],
        ..Spec::default()
    };
    let mut study = Study::default();
    study.settings.provider = ProviderChoice::Cpu;
    let (jobs, refusals, program) = jobs(&spec, &study, Node::default()).unwrap();
    assert_eq!((jobs.len(), refusals.len()), (2, 1));
    let common = Common {
        sweep: 0,
        folder: folder.to_owned(),
        options: vec!["--restarts".to_owned(), "3".to_owned()],
        prepare_options: Vec::new(),
        threads: Some(1),
        gpu: false,
        program,
        jobs: 0,
        refused: 0,
    };
    let plan = Plan::new(common, jobs, refusals);
    let sweep = SweepFolder::new(&folder.join("sweep"));
    plan.write(&sweep.plan_file()).unwrap();
    (sweep, plan)
}

/// Everything that's read of a sweep's folder.
fn status(sweep: &SweepFolder, plan: &Plan) {
    let status = Status::of(sweep, plan);
    let _ = format!("{:?}", status.strays);
    for (job, standing, _) in &status.jobs {
        let _ = format!("{} {standing:?}", job.combination);
        sweep.there(job);
        plan.measuring(job);
        plan.preparing(job);
    }
    for submission in submissions(sweep) {
        let _ = format!("{submission:?}");
    }
}

fn plan(folder: &Path) -> Target {
    let (sweep, _) = planned(folder);
    Target {
        seeds: vec![Seed::at(&sweep.plan_file())],
        read: Box::new(move |_| {
            let plan = sweep.plan().map_err(|error| told(&error))?;
            for job in &plan.jobs {
                let inside = sweep.attempts(&job.key);
                assert!(is_below(&inside, sweep.path()), "{}", inside.display());
            }
            status(&sweep, &plan);
            Ok(())
        }),
    }
}

fn is_below(path: &Path, folder: &Path) -> bool {
    let ups = path.components().any(|part| part.as_os_str() == "..");
    path.starts_with(folder) && !ups
}

fn folder_of_a_sweep(folder: &Path) -> Target {
    let (sweep, plan) = planned(folder);
    let write = |path: PathBuf, text: String| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let form = match path.extension() {
            None => Form::Bytes,
            Some(_) => Form::of(&path, text.as_bytes()),
        };
        Seed::of(path, text.into_bytes(), form)
    };
    let job = &plan.jobs[0];
    let owner = json!({
        "host": "elsewhere", "process": 7, "began": 12, "boot": "x", "task": "slurm 17_3",
    });
    let record = json!({
        "job": job, "owner": owner, "command": ["peft-bench"], "began": 1.5, "state": "failed",
        "seconds": 2.0, "error": "why",
    });
    let submitted = json!({ "launcher": "slurm", "ids": ["17"], "tasks": 2, "plan": plan.hash });
    let result = entries(&fixture("results/alone")).into_iter();
    let mut result = result.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let published = sweep
        .results()
        .join("hardware")
        .join(format!("a--{}.json", job.key));
    fs::create_dir_all(published.parent().unwrap()).unwrap();
    fs::copy(result.next_back().unwrap(), &published).unwrap();
    let done = sweep.path().join("done").join(plan.jobs[1].key.work());
    let seeds = vec![
        write(
            sweep.attempts(&job.key).join("one").join("attempt.json"),
            record.to_string(),
        ),
        write(sweep.claims().join(job.key.as_str()), owner.to_string()),
        write(sweep.submissions(), submitted.to_string()),
        write(
            done.join(plan.jobs[1].key.program()),
            "results/hardware/a.json".to_owned(),
        ),
    ];
    Target {
        seeds,
        read: Box::new(move |_| {
            status(&sweep, &plan);
            let this = named(&Owner::this());
            assert!(!this.is_empty());
            Ok(())
        }),
    }
}
