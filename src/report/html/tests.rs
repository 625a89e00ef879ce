use serde_json::json;

use super::*;
use crate::measure::record::scripted as record;
use crate::measure::subject::Subject;
use crate::report::build::scripted;
use crate::report::model::Status;

const HOSTILE: &str = "<img src=x onerror=alert(1)></script><script>alert(2)</script>&\"'{{data}}";

fn results() -> Vec<Named> {
    let records = [record(Subject::Base, 1), record(Subject::Unmerged, 2)];
    let good = scripted::report(&records, &[], None);
    let mut failed = scripted::report(&[], &[], None);
    failed.run_info.status = Status::Failed;
    failed.run_info.error = Some(HOSTILE.to_owned());
    failed.run_info.benchmark_config = json!({ "model_id": HOSTILE, "dtype": HOSTILE });
    let named = [("good", good.clone()), ("failed", failed), (HOSTILE, good)];
    let named = named.into_iter().enumerate();
    named
        .map(|(index, (name, report))| Named {
            file: format!("{index}.json"),
            name: format!("lora--{name}"),
            report,
            quality: Qualities::default(),
        })
        .collect()
}

#[test]
fn results_are_read_again_from_the_page() {
    let results = results();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    std::fs::write(&path, page(&results, "2026-01-01T00:00:00Z").unwrap()).unwrap();
    assert_eq!(read_page(&path).unwrap(), results);

    std::fs::write(&path, "<p>Something else</p>").unwrap();
    assert!(
        read_page(&path)
            .unwrap_err()
            .to_string()
            .ends_with("there are no results in it")
    );
}

#[test]
fn nothing_out_of_a_result_is_markup() {
    let page = page(&results(), HOSTILE).unwrap();
    assert!(!page.contains("<img") && !page.contains("<script>alert"));
    assert_eq!(page.matches("</script>").count(), 2);
    assert_eq!(page.matches("<script").count(), 2);
    assert!(page.contains("&lt;img src=x"));
    // A part that looks like a place for another isn't one.
    assert_eq!(page.matches("id=\"data\">").count(), 1);
    assert!(page.contains("{{data}}"));
}

#[test]
fn the_page_names_nothing_outside_and_its_parts_end_where_they_should() {
    assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
    for outside in [
        "http://", "https://", "url(", "@import", "fetch(", "import(",
    ] {
        // Names of SVG and HTML, which are asked of nobody.
        let script = SCRIPT.replace("http://www.w3.org/", "");
        assert!(
            !script.contains(outside) && !STYLE.contains(outside) && !FRAME.contains(outside),
            "{outside}"
        );
    }
    let page = page(&results(), "").unwrap();
    assert!(
        page.contains("default-src 'none'")
            && page.contains(&hash(SCRIPT))
            && page.contains(&hash(STYLE))
    );
}

#[test]
fn without_a_script_there_are_tables_and_what_to_know_about_them() {
    let results = results();
    let page = page(&results, "").unwrap();
    let (summary, _) = page.split_once("id=\"app\"").unwrap();
    for expected in [
        // The failed run names another model and dtype, so there are two groups.
        "<h2>synthetic/llama-135m · float32</h2>",
        "<th scope=\"row\">good ",
        "+100.0 [",
        "<dt>Threads</dt><dd>2</dd>",
        "The run failed",
        "What the columns mean",
    ] {
        assert!(summary.contains(expected), "{expected}");
    }
}
