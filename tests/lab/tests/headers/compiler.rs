//! Questions to a C compiler about one set of headers.
//!
//! Owns: generating the programs, compiling and running them. Whether something is there is asked by itself, so that
//! what is missing is told from what is wrong.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use gmem_kvm::testing::abi::{Number, Since, Structure};

const INCLUDES: &str = "#include <linux/version.h>\n#include <linux/kvm.h>\n#include <linux/kvm_para.h>\n\
                        #include <linux/psp-sev.h>\n#include <linux/mman.h>\n#include <linux/kcmp.h>\n\
                        #include <asm/unistd.h>\nint printf(const char *, ...);\n";

/// Expressions of C, with the values they should have.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) since: Since,
    pub(crate) expressions: Vec<(String, u64)>,
}

/// A set of headers.
pub(crate) struct Headers {
    directory: Option<PathBuf>,
    scratch: tempfile::TempDir,
    release: Since,
    /// For people.
    pub(crate) version: String,
}

impl From<Structure> for Item {
    fn from(belief: Structure) -> Self {
        let of = belief.name;
        let bytes = |bytes: usize| bytes as u64;
        let mut expressions = vec![(format!("sizeof({of})"), bytes(belief.size))];
        // Kernels have parts of the one structure with which they answer.
        let part = match belief.fields.first().and_then(|field| field.name.split_once('.')) {
            Some((arm, _)) => format!("{of}.{arm}"),
            None => of.to_owned(),
        };
        for field in belief.fields {
            let name = field.name;
            expressions.push((format!("__builtin_offsetof({of}, {name})"), bytes(field.offset)));
            expressions.extend(field.size.map(|size| (format!("sizeof((({of} *)0)->{name})"), bytes(size))));
        }
        Self { name: part, since: belief.since, expressions }
    }
}

impl From<Number> for Item {
    fn from(belief: Number) -> Self {
        let expressions = vec![(belief.name.to_owned(), belief.value)];
        Self { name: belief.name.to_owned(), since: belief.since, expressions }
    }
}

/// A release as people write it.
pub(crate) fn release((major, minor): Since) -> String {
    format!("{major}.{minor}")
}

impl Headers {
    /// The headers in `directory`, or those installed; or why there is nothing to ask.
    pub(crate) fn open(directory: Option<PathBuf>) -> Result<Result<Self, String>> {
        match Command::new("cc").arg("--version").output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Err("there is no C compiler (cc)".to_owned()));
            }
            other => drop(other.context("cannot run cc")?),
        }
        if let Some(directory) = &directory {
            let kvm = directory.join("linux/kvm.h");
            ensure!(kvm.is_file(), "{} is not there", kvm.display());
        }
        let mut headers = Self { directory, scratch: tempfile::tempdir()?, release: (0, 0), version: String::new() };
        if headers.directory.is_none() && !headers.compiles("int main(void) { return 0; }")? {
            return Ok(Err("no kernel headers are installed (package linux-libc-dev)".to_owned()));
        }
        let code = headers.values(&["LINUX_VERSION_CODE"])?[0];
        headers.release = (u32::try_from(code >> 16)?, u32::try_from(code >> 8 & 0xff)?);
        headers.version = format!("{}.{}", release(headers.release), code & 0xff);
        Ok(Ok(headers))
    }

    /// Tells what these headers have from what came to Linux later. What they should have and don't is an error.
    pub(crate) fn divide(&self, items: Vec<Item>) -> Result<(Vec<Item>, Vec<Item>)> {
        let (mut present, mut lacking) = (Vec::new(), Vec::new());
        for item in items {
            let texts: Vec<&str> = item.expressions.iter().map(|(text, _)| text.as_str()).collect();
            let output = self.compile(&program(&texts), &["-fsyntax-only"])?;
            if output.status.success() {
                present.push(item);
            } else if item.since > self.release {
                lacking.push(item);
            } else {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                bail!(
                    "headers of Linux {} should have {} since {}:\n{said}",
                    self.version,
                    item.name,
                    release(item.since)
                );
            }
        }
        Ok((present, lacking))
    }

    /// Where these headers say otherwise.
    pub(crate) fn differences(&self, items: &[Item]) -> Result<Vec<String>> {
        let all: Vec<&(String, u64)> = items.iter().flat_map(|item| &item.expressions).collect();
        let texts: Vec<&str> = all.iter().map(|(text, _)| text.as_str()).collect();
        let values = self.values(&texts)?;
        let wrong = all.iter().zip(values).filter(|((_, believed), value)| believed != value);
        Ok(wrong.map(|((text, believed), value)| format!("{text} is {value}, not {believed}")).collect())
    }

    /// The values of expressions.
    fn values(&self, expressions: &[&str]) -> Result<Vec<u64>> {
        let binary = self.scratch.path().join("ask");
        let output = self.compile(&program(expressions), &["-o", path(&binary)?])?;
        ensure!(output.status.success(), "cc fails:\n{}", String::from_utf8_lossy(&output.stderr));
        let output = Command::new(&binary).output().context("cannot run what cc made")?;
        let text = String::from_utf8(output.stdout)?;
        let values = text.lines().map(|line| Ok(line.parse()?)).collect::<Result<Vec<u64>>>()?;
        ensure!(values.len() == expressions.len(), "{} answers to {} questions", values.len(), expressions.len());
        Ok(values)
    }

    fn compiles(&self, text: &str) -> Result<bool> {
        Ok(self.compile(&format!("{INCLUDES}{text}"), &["-fsyntax-only"])?.status.success())
    }

    fn compile(&self, text: &str, arguments: &[&str]) -> Result<Output> {
        let source = self.scratch.path().join("ask.c");
        std::fs::write(&source, text)?;
        let mut command = Command::new("cc");
        command.args(["-std=gnu11", "-w"]).args(arguments).env("LC_ALL", "C.UTF-8");
        if let Some(directory) = &self.directory {
            // Nothing of the headers installed here gets in between.
            command.arg("-nostdinc").arg("-isystem").arg(directory);
            command.arg("-isystem").arg(directory.join("x86_64-linux-gnu"));
        }
        command.arg(&source).output().context("cannot run cc")
    }
}

/// A program that prints the values of expressions.
fn program(expressions: &[&str]) -> String {
    let mut text = format!("{INCLUDES}int main(void) {{\n");
    for expression in expressions {
        text.push_str(&format!("printf(\"%llu\\n\", (unsigned long long)({expression}));\n"));
    }
    text + "return 0; }\n"
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
