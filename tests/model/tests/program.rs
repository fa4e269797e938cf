//! The program `tenure-model`, as people call it. That its whole run passes is `models.rs`'s to show.

use std::process::{Command, Output};

fn call(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tenure-model")).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

#[test]
fn every_listed_form_can_be_traced_by_its_name() {
    let list = call(&["--list"]);
    assert!(list.status.success());
    let forms: Vec<&str> = text(&list.stdout).lines().collect();
    for wanted in ["binding", "mapping/page reference as protection", "closing/any order", "conversion/no drain"] {
        assert!(forms.contains(&wanted), "{wanted} is not in {forms:?}");
    }
    let quick =
        forms.iter().filter(|form| form.starts_with("closing") || form.starts_with("lifetime/at memslot, bare"));
    for form in quick {
        let trace = call(&["--trace", form]);
        assert!(trace.status.success() && !trace.stdout.is_empty(), "{form}");
    }
}

#[test]
fn a_trace_reads_as_a_schedule() {
    let trace = call(&["--trace", "closing/VM closed first"]);
    let text = text(&trace.stdout);
    assert!(text.starts_with("pages-before-key: the RMP never names a free ASID: caught\n"), "{text}");
    assert!(text.contains("release drops the last reference to the VM: its ASID is free\n"), "{text}");
}

#[test]
fn an_unknown_form_is_an_error_that_names_it() {
    let trace = call(&["--trace", "binding/no such mutant"]);
    assert_eq!(trace.status.code(), Some(1));
    assert_eq!(text(&trace.stderr), "error: there is no form \"binding/no such mutant\"; --list names them all\n");
}
