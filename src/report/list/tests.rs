use super::filter::Filter;
use super::*;
use crate::report::table::{Heading, Scale, Unit, Value};

const fn heading(key: &'static str, unit: Unit) -> Heading {
    Heading {
        key,
        heading: key,
        unit,
        meaning: "",
    }
}

const HEADINGS: [Heading; 6] = [
    heading("method", Unit::Text),
    heading("overhead_pct", Unit::PercentWithInterval),
    heading("decode_p50", Unit::Time(Scale::Milliseconds)),
    heading("decode_p99", Unit::Time(Scale::Milliseconds)),
    heading("peak_memory_mb", Unit::Mebibytes),
    heading("trainable_params", Unit::Count),
];

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// A LoRA, and a base without method and overhead.
fn rows() -> [Vec<Value>; 2] {
    let overhead = Value::Estimate {
        value: 4.0,
        interval: Some([-1.0, 9.0]),
        detected: false,
        is_taken_back: false,
        p: Some(0.2),
        starts: Some(5),
    };
    let lora = [0.019, 0.025, 900.0, 12_000.0].map(Value::Number);
    let base = [0.018, 0.020, 2000.0, 0.0].map(Value::Number);
    [
        [vec![text("LORA"), overhead], lora.to_vec()].concat(),
        [vec![Value::Missing, Value::Missing], base.to_vec()].concat(),
    ]
}

fn parsed(text: &str) -> Result<Filter, String> {
    let headings: Vec<&Heading> = HEADINGS.iter().collect();
    Filter::parse(text, &headings).map_err(|error| error.to_string())
}

#[track_caller]
fn check(text: &str, expected: [bool; 2]) {
    let filter = parsed(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rows().map(|row| filter.admits(&row)), expected, "{text}");
}

#[test]
fn a_filter_says_which_rows_are_shown() {
    check("method == \"LORA\" and overhead < 5", [true, false]);
    check("method = 'lora'", [true, false]);
    check("method != \"LORA\"", [false, true]);
    check("method == none", [false, true]);
    check("none != method", [true, false]);
    check("method ~ 'or' or overhead > 1", [true, false]);
    check("method !~ 'x'", [true, true]);
    check("method in ('IA3', \"lora\")", [true, false]);
    check("method not in ('lora', none)", [false, false]);
    check("method > 'lor' and method < 'LOS'", [true, false]);
    check(
        "overhead_pct_low < 0 and overhead_high >= 9%",
        [true, false],
    );
    // Neither less nor more than anything.
    check("overhead < 5 or overhead >= 5", [true, false]);
    check("NOT (overhead < 5)", [false, true]);
    check("not not overhead < 5", [true, false]);
    check("decode_p50 < 18.5 ms", [false, true]);
    check("decode_p50 < 0.0185s and decode_p99 > 1e4us", [false, true]);
    check("decode_p99 > 0", [true, true]);
    check("20 ms < decode_p99", [true, false]);
    check("decode_p99 <= decode_p50", [false, false]);
    check("peak_memory > 1 GiB", [false, true]);
    check("trainable_params >= 12k", [true, false]);
    check("trainable_params == 0", [false, true]);
    // `and` binds more than `or`.
    check(
        "method == 'x' and overhead < 5 or overhead == none",
        [false, true],
    );
    check(
        "method == 'x' and (overhead < 5 or overhead == none)",
        [false, false],
    );
}

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    for (filter, error) in [
        (
            "metod == 'LORA'",
            "at character 1 of `metod == 'LORA'`: there is no column `metod` (did you mean `method`?); \
             `--columns help` lists them; text needs quotes",
        ),
        (
            "method == LORA",
            "at character 11 of `method == LORA`: there is no column `LORA`; `--columns help` lists them; text needs quotes",
        ),
        (
            "",
            "at character 1 of ``: expected a column, a value, `not`, or `(`, found the end",
        ),
        (
            "method",
            "at character 7 of `method`: expected `==`, `!=`, `<`, `<=`, `>`, `>=`, `~`, or `in`, found the end",
        ),
        (
            "(method == 'a'",
            "at character 15 of `(method == 'a'`: expected `and`, `or`, or `)`, found the end",
        ),
        (
            "method == 'a' 5",
            "at character 15 of `method == 'a' 5`: expected `and`, `or`, or the end, found the number 5",
        ),
        (
            "method == 'a",
            "at character 11 of `method == 'a`: this text has no closing '",
        ),
        (
            "µ == 5 & 3",
            "at character 8 of `µ == 5 & 3`: `&` means nothing here",
        ),
        (
            "overhead < 1.2.3",
            "at character 12 of `overhead < 1.2.3`: `1.2.3` is not a number",
        ),
        (
            "overhead < 'a'",
            "at character 12 of `overhead < 'a'`: `overhead` has numbers, and can't be compared with text",
        ),
        (
            "method < 5",
            "at character 10 of `method < 5`: `method` has text, and can't be compared with a number; put it in quotes",
        ),
        (
            "overhead < decode_p50",
            "at character 1 of `overhead < decode_p50`: `overhead` has percentages, and can't be compared with a column of \
             another unit",
        ),
        (
            "decode_p50 < 20",
            "at character 14 of `decode_p50 < 20`: `decode_p50` is a time, so the number needs a unit, as in `20 ms`",
        ),
        (
            "decode_p50 < 20 MiB",
            "at character 14 of `decode_p50 < 20 MiB`: `decode_p50` isn't measured in `MiB`; it takes `ns`, `us`, `ms`, `s` or \
             `min`",
        ),
        (
            "overhead ~ 'a'",
            "at character 1 of `overhead ~ 'a'`: `overhead` has numbers, and `~` searches text",
        ),
        (
            "1 < 2",
            "at character 3 of `1 < 2`: neither side is a column, so this is the same of all rows",
        ),
        (
            "method in 'a'",
            "at character 11 of `method in 'a'`: expected `(` and a list of values, found the text \"a\"",
        ),
    ] {
        assert_eq!(parsed(filter).unwrap_err(), error, "{filter}");
    }
    let deep = format!(
        "{}method == 'a'{}",
        "(".repeat(100_000),
        ")".repeat(100_000)
    );
    assert!(
        parsed(&deep)
            .unwrap_err()
            .ends_with("this is nested too deeply")
    );
    let wide = vec!["method == 'a'"; 10_000].join(" or ");
    check(&wide, [false, false]);
}

/// Two rows of one group, and one of another.
fn sections() -> Vec<Section> {
    let [lora, base] = rows();
    let section = |group, differs_by: &[&str], rows| Section {
        group,
        groups: 2,
        title: format!("cpu|{group}"),
        differs_by: differs_by.iter().map(|text| (*text).to_owned()).collect(),
        part: None,
        table: crate::report::table::Table {
            headings: HEADINGS.iter().collect(),
            rows,
        },
    };
    let mut hostile = lora.clone();
    hostile[0] = text("=1+2\"|<b>, x\ny");
    vec![
        section(1, &[], vec![lora, base]),
        section(
            2,
            &["dtype (a instead of b)", "threads (1 instead of 2)"],
            vec![hostile],
        ),
    ]
}

#[test]
fn csv_is_quoted_and_has_no_formula() {
    let headings: Vec<&Heading> = HEADINGS.iter().collect();
    let expected = "\
method,overhead_pct,overhead_pct_low,overhead_pct_high,overhead_pct_detected,decode_p50,decode_p99,peak_memory_mb,\
trainable_params,group,differs_by\r
LORA,4,-1,9,false,0.019,0.025,900,12000,1,\r
,,,,,0.018,0.02,2000,0,1,\r
\"'=1+2\"\"|<b>, x\ny\",4,-1,9,false,0.019,0.025,900,12000,2,dtype (a instead of b); threads (1 instead of 2)\r
";
    assert_eq!(csv(&headings, &sections()), expected);
    for start in ["=", "+", "-", "@", "\t", "\r"] {
        let mut sections = sections();
        sections.truncate(1);
        sections[0].table.rows = vec![rows()[0].clone()];
        sections[0].table.rows[0][0] = text(&format!("{start}1"));
        let written = csv(&headings, &sections);
        let (_, row) = written.split_once("\r\n").unwrap();
        assert!(row.trim_start_matches('"').starts_with('\''), "{row}");
    }
}

#[test]
fn json_lines_are_typed() {
    let text = json_lines(&sections());
    let rows: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        rows[0],
        serde_json::json!({
            "method": "LORA", "overhead_pct": 4.0, "overhead_pct_low": -1.0, "overhead_pct_high": 9.0,
            "overhead_pct_detected": false, "decode_p50": 0.019, "decode_p99": 0.025, "peak_memory_mb": 900.0,
            "trainable_params": 12_000, "group": 1, "differs_by": [],
        })
    );
    assert!(rows[1]["method"].is_null() && rows[1]["overhead_pct_low"].is_null());
    assert_eq!(rows[2]["method"], "=1+2\"|<b>, x\ny");
    assert_eq!(rows[2]["differs_by"][1], "threads (1 instead of 2)");
}

#[test]
fn markdown_is_escaped_and_aligned() {
    let text = markdown(&sections(), &["lora/<x> failed: no | memory".to_owned()]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "### Group 1: cpu\\|1");
    let table: Vec<&&str> = lines.iter().filter(|line| line.starts_with('|')).collect();
    assert_eq!(table.len(), 7);
    for tables in [&table[..4], &table[4..]] {
        let widths: Vec<usize> = tables.iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }
    assert!(table[0].starts_with("| method | overhead_pct | 95 % interval |"));
    assert!(table[1].starts_with("| ------ | -----------: | ------------: |"));
    assert!(
        table[2].contains("|      ~+4.0 % | -1.0 … +9.0 % |"),
        "{text}"
    );
    assert!(table[6].starts_with("| =1+2\"\\|&lt;b&gt;, x y |"));
    assert!(text.contains(
        "\nNot to be compared with group 1: dtype (a instead of b), threads (1 instead of 2).\n"
    ));
    assert!(text.ends_with("\n- lora/&lt;x&gt; failed: no \\| memory\n"));
}
