//! Results, pages of them, and published quality: reading, and everything that's made of them.

use std::path::Path;

use peft_bench::judge::{self, Judgement, Side, pairs};
use peft_bench::report::html::{self, Named, read_page};
use peft_bench::report::list::{Columns, Query, RowsOf, csv, json_lines, markdown};
use peft_bench::report::quality::{Published, Qualities};
use peft_bench::report::{self, Labelled, Report, Source, target_name, terminal};

use super::{entries, fixture};
use crate::mutate::Form;
use crate::target::{Outcome, Reader, Seed, Target, told};

pub const RESULT: Reader = Reader {
    name: "result",
    one_of: 4,
    make: result,
};

pub const COMPARED: Reader = Reader {
    name: "result-compared",
    one_of: 20,
    make: compared,
};

pub const PAGE: Reader = Reader {
    name: "result-page",
    one_of: 5,
    make: page,
};

pub const QUALITY: Reader = Reader {
    name: "quality",
    one_of: 1,
    make: quality,
};

/// Results of this version and of earlier ones, all in the place `path`.
fn results(path: &Path) -> Vec<Seed> {
    let folders = ["alone", "earlier", "together"].map(|name| fixture("results").join(name));
    let files = folders.iter().flat_map(|folder| entries(folder));
    let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "json"));
    files
        .map(|file| Seed {
            path: path.to_owned(),
            ..Seed::at(&file)
        })
        .collect()
}

/// Writes `report` in every way, but for pages.
fn show(path: &Path, report: &Report) {
    let name = target_name(path, report);
    if !report.generation_info.variants.is_empty() {
        let labelled = Labelled {
            name: &name,
            label: &name,
            report,
        };
        terminal::measurement(&[labelled], true);
    }
    for rows in [RowsOf::Variants, RowsOf::Results] {
        let query = Query {
            rows,
            columns: Columns::named(rows, &["all".to_owned()]).unwrap(),
            filter: None,
            order: Vec::new(),
            group_by: None,
        };
        let source = Source {
            file: "file.json",
            name: &name,
            report,
            quality: &Qualities::default(),
        };
        let listed = query.rows(source).into_iter().collect();
        let sections = query.sections(listed);
        csv(&query.headings(), &sections);
        json_lines(&sections);
        markdown(&sections, &[]);
        terminal::sections(&sections, rows);
    }
}

/// The page of `report`. Nothing out of it may be markup.
fn page_of(path: &Path, report: Report) -> String {
    let named = Named {
        file: "file.json".to_owned(),
        name: target_name(path, &report),
        report,
        quality: Qualities::default(),
    };
    let text = html::page(&[named], "2026-01-01T00:00:00Z").unwrap();
    assert_eq!(text.matches("<script").count(), 2);
    assert_eq!(text.matches("</script").count(), 2);
    text
}

fn result(folder: &Path) -> Target {
    let path = folder.join("lora--lora_r8--m--float32--cpu.json");
    Target {
        seeds: results(&path),
        read: Box::new(|seed| {
            let report = report::read(&seed.path).map_err(|error| told(&error))?;
            show(&seed.path, &report);
            page_of(&seed.path, report);
            Ok(())
        }),
    }
}

fn compared(folder: &Path) -> Target {
    let path = folder.join("new.json");
    Target {
        seeds: results(&path),
        read: Box::new(|seed| {
            let old = seed.folder().join("old.json");
            if !old.is_file() {
                std::fs::copy(&seed.path, &old).unwrap();
            }
            for [old, new] in [[&old, &seed.path], [&seed.path, &old]] {
                let sides = [old, new].map(|path| Side::read(path).map_err(|error| told(&error)));
                let [old, new] = sides;
                let judgement = Judgement::new(pairs(old?, new?), 3.0);
                judge::text::table(&judgement, true);
                judge::text::markdown(&judgement);
                let _ = judge::text::json(&judgement, 0);
            }
            Ok(())
        }),
    }
}

fn page(folder: &Path) -> Target {
    let path = folder.join("page.html");
    let mut seeds = Vec::new();
    for from in results(&path) {
        from.put(&from.bytes);
        let report = report::read(&path).unwrap();
        let text = page_of(&path, report).into_bytes();
        let form = Form::of(&path, &text);
        seeds.push(Seed::of(path.clone(), text, form));
    }
    Target {
        seeds,
        read: Box::new(|seed| {
            for result in read_page(&seed.path).map_err(|error| told(&error))? {
                show(&seed.path, &result.report);
            }
            Ok(())
        }),
    }
}

fn quality(folder: &Path) -> Target {
    let table =
        "experiment,metric,value\nlora/lora_r8,accuracy,0.5\n\"ia3/default\",accuracy,1e-3\n";
    let table_path = folder.join("quality.csv");
    let mut seeds = vec![Seed::of(table_path, table.as_bytes().to_vec(), Form::Bytes)];
    let published = r#"{"results": [
        {"run_info": {"experiment_name": "lora/r8", "created_at": "2026-01-01T00:00:00", "train_config": {"model_id": "m"},
          "peft_config": {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}},
         "train_info": {"metrics": [{"test accuracy": 0.5, "test loss": 1.0}]},
         "meta_info": {"package_info": {"peft-version": "0.19"}}},
        {"run_info": {"experiment_name": "full", "created_at": "", "train_config": {"model_id": "m"}, "peft_config": null},
         "train_info": {"metrics": [{"test accuracy": 0.25}]}}]}"#;
    let path = folder.join("quality.json");
    let form = Form::of(&path, published.as_bytes());
    seeds.push(Seed::of(path, published.as_bytes().to_vec(), form));
    let measured = &results(&folder.join("measured.json"))[0];
    measured.put(&measured.bytes);
    let measured = report::read(&measured.path).unwrap();
    Target {
        seeds,
        read: Box::new(move |seed| -> Outcome {
            let mut published = Published::default();
            published
                .add(&seed.path, None)
                .map_err(|error| told(&error))?;
            published.note();
            published.of("lora--lora_r8", &measured);
            published.stand_in("n".to_owned());
            published.of("lora--lora_r8", &measured);
            Ok(())
        }),
    }
}
