//! What `tenure` says to people: help, and errors that name field and value. `TRYCMD=overwrite` writes down what it
//! says now.

#[test]
fn help_and_errors_are_as_written_down() {
    trycmd::TestCases::new().case("tests/cli/*.trycmd");
}
