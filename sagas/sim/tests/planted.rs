//! The table of planted faults lists exactly those that there are, in their order and their words.

use contract::Fault;

#[test]
fn the_table_of_planted_faults_is_the_list_in_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/planted-faults.md");
    let page = std::fs::read_to_string(path).expect("docs/planted-faults.md is there");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let told: Vec<(&str, &str)> = rows.map(|(name, rest)| (name, rest.split(" | ").next().unwrap_or_default())).collect();
    let known: Vec<(&str, &str)> = Fault::ALL.iter().map(|fault| (fault.name(), fault.what())).collect();
    assert_eq!(told, known);
}
