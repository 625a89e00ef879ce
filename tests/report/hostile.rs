//! A result whose every text is hostile: pages, Markdown and CSV show it, and none of it acts.

use std::fs;
use std::path::{Path, PathBuf};

use peft_bench::report::html::read_page;
use serde_json::{Value, json};

use crate::common::{program, read_json, run};
use crate::results;

/// Ends elements, attributes and scripts, and looks like a place of the page's frame.
const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload=alert(3) x='`{{data}}&lt;";

/// The result `name`, with hostile texts wherever it can still be read with them.
fn hostile(folder: &Path, name: &Path) -> (PathBuf, usize) {
    let mut result = read_json(name);
    let path = folder.join("lora--<b onclick='alert(4)'>\"&--m--float32--cpu.json");
    let mut spoilt = 0;
    let mut places = Vec::new();
    list(&result, String::new(), &mut places);
    for place in places {
        let before = result.clone();
        if let Some(Value::String(text)) = result.pointer_mut(&place) {
            text.push_str(HOSTILE);
        }
        fs::write(&path, result.to_string()).unwrap();
        match peft_bench::report::read(&path) {
            Ok(_) => spoilt += 1,
            Err(_) => result = before,
        }
    }
    fs::write(&path, result.to_string()).unwrap();
    (path, spoilt)
}

/// The JSON pointers of all texts.
fn list(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(path),
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                list(value, format!("{path}/{index}"), found);
            }
        }
        Value::Object(values) => {
            for (key, value) in values {
                let key = key.replace('~', "~0").replace('/', "~1");
                list(value, format!("{path}/{key}"), found);
            }
        }
        _ => {}
    }
}

/// What must not be in a page as it is: everything else in it is this program's own.
const ACTIVE: [&str; 4] = ["<img", "<script>alert", "<b onclick", "{{data}}</"];

#[test]
fn a_page_escapes_whatever_a_result_says() {
    let folder = tempfile::tempdir().unwrap();
    for name in results("together").iter().chain(&results("alone")) {
        let (path, spoilt) = hostile(folder.path(), name);
        assert!(spoilt > 20, "{spoilt} texts of {}", name.display());
        let page = folder.path().join("page.html");
        let outcome = run(program(["report", "--output"]).arg(&page).arg(&path));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let text = fs::read_to_string(&page).unwrap();
        // The data, and the page's own script; the policy admits no other.
        assert_eq!(text.matches("<script").count(), 2);
        assert_eq!(text.matches("</script").count(), 2);
        for active in ACTIVE {
            assert!(!text.contains(active), "{active}");
        }
        // No attribute ends early: each quote of the result is escaped.
        assert!(!text.contains("\"' onload") && text.contains("&quot;&#39; onload"));
        assert!(text.contains("script-src 'sha256-") && text.contains("default-src 'none'"));
        // Nothing is lost either: the result in it is the file's.
        let [own] = read_page(&page).unwrap().try_into().unwrap();
        assert_eq!(
            json!(own.report),
            json!(peft_bench::report::read(&path).unwrap())
        );
    }
}

#[test]
fn tables_for_other_programs_keep_their_rows_and_columns() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = hostile(folder.path(), &results("together")[0]);
    let shown = |format: &str, path: &Path| {
        let outcome = run(program(["report", "--format", format]).arg(path));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    let plain = &results("together")[0];
    for format in ["csv", "jsonl", "markdown"] {
        let lines = |path: &Path| shown(format, path).lines().count();
        assert_eq!(lines(&path), lines(plain), "{format}");
    }
    for line in shown("jsonl", &path).lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
}
