//! `docs/bind-at-creation.md`: the argument of the thread as a table, made from what [`crate::lifetime`] finds.
//!
//! Owns the document's words. Every figure, mark and schedule in it comes from the models, and nothing in it depends on
//! the machine or the time, so that a test can say whether the committed document is the current one.

use std::fmt::Write as _;

use crate::closing;
use crate::lifetime::{Cell, Design, Property, Technology, cells};
use crate::runner::Schedule;

/// Where it is, from the workspace's root.
pub const PATH: &str = "docs/bind-at-creation.md";

/// The command that writes it.
pub const HOW_TO_WRITE: &str = "cargo xtask model --write";

/// The document as the models have it now.
pub fn generate() -> String {
    let cells = cells();
    let examples = Examples::of(&cells);
    let mut text = String::new();
    text.push_str(OPENING);
    text.push_str(HOW_TO_READ);
    write_properties(&mut text);
    write_table(&mut text, &cells, &examples);
    write_mails(&mut text, &cells);
    text.push_str(WHAT_FOLLOWS);
    write_orders(&mut text);
    text.push_str(LEFT_OUT);
    write_examples(&mut text, &examples);
    text
}

const OPENING: &str = "\
# Bind at creation, or at memslot?

*Made by `cargo xtask model --write` from the models in `tests/model`; a test fails if it is not what they find.*

In August 2023, when guest_memfd was a patch series in its eleventh version, two designs stood against each other on the
list ([thread](https://lore.kernel.org/all/diqzv8dq3116.fsf@ackerleytng-ctop.c.googlers.com/)):

- A guest_memfd is **bound at creation**. It is made by one VM, belongs to it for life and holds a reference to it. That
  is what the series did, and what Linux 7.2 does.
- It is **bound at memslot**: Ackerley Tng's proposal of 7 August. A slot takes a reference to the file; the first slot
  decides whose the file is, and when the last one is gone it is nobody's again.

Sean Christopherson answered on 9 August: a file that is nobody's again can be bound to an attacker's VM, contents and
all. He went through three remedies, (a) to (c), and found none good enough for SNP and TDX. This page puts the designs
into a model, lets a hostile VMM do everything it can in every order, and shows what each design has and what it lacks.

";

const HOW_TO_READ: &str = "\
## How to read the table

A row is a design:

- *at creation (Linux 7.2)*; the same kernel *with the file closed before its VM*, which is what a VMM like `tenure`
  does; and *with the pages freed before the VM is put*: a kernel that does not exist, in which the file's reference to
  the VM is the last thing to go.
- *at memslot, bare*; with *(a)* a file that was one VM's never another's; *(b)* its pages freed when its last slot
  goes; *(c)* its pages freed when another VM's slot is bound. These are the mail's.
- *(a) and free when the VM ends*: not in the thread. A VM that ends frees the pages of every file that was ever bound
  to it, before its key. It is there because one asks for it as soon as one has seen the other rows.

A column is a property, and a cell says **yes** if no schedule breaks it. If some schedule does, the cell says for which
technology, and the number leads to a shortest one. The technologies:

- *plain*: nothing but KVM keeps pages apart (`KVM_X86_SW_PROTECTED_VM`).
- *SNP*: an RMP entry names the ASID of the page's owner.
- *TDX*: as in Linux 7.2, the end of a slot takes its pages out of the Secure EPT, and contents are lost with that.
- *deferred TDX*: the end of a slot only blocks its pages (`TDH.MEM.RANGE.BLOCK`); they stay the TD's, contents and all,
  and are reclaimed when they are freed. No kernel does that. It is what TDX would need to keep contents over the
  deletion of a slot, and what (c) means by putting the reclaim off.

The properties:

";

/// A property's column and what it says.
const fn column(property: Property) -> (&'static str, &'static str) {
    match property {
        Property::Private => ("private", "no page of VM A is ever readable in VM B. All technologies"),
        Property::RightKey => {
            ("right key", "no page is mapped into a VM while it is assigned to another VM's key. SNP and TDX")
        }
        Property::FreshAsid => ("ASID", "no ASID is given to a new VM while the RMP names it as another one's. SNP"),
        Property::Reclaimable => {
            ("reclaim", "no page is left to a TD that is gone, where nobody could reclaim it. TDX")
        }
        Property::Survives => ("survives", "what a guest wrote is there after its slot was deleted and created again"),
        Property::Released => ("released", "memory that no descriptor and no slot names any more is free"),
        Property::VmEnds => ("VM ends", "a VM ends when its own descriptors are closed"),
        Property::SlotKeeps => ("slot keeps", "closing the file takes no memory from a VM that has it in a slot"),
    }
}

fn write_properties(text: &mut String) {
    for property in Property::ALL {
        let (name, meaning) = column(property);
        let _ = writeln!(text, "- **{name}**: {meaning}.");
    }
    text.push('\n');
}

fn write_table(text: &mut String, cells: &[Cell], examples: &Examples) {
    text.push_str("## The table\n\n| the file is bound |");
    Property::ALL.iter().for_each(|property| {
        let _ = write!(text, " {} |", column(*property).0);
    });
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(Property::ALL.len()));
    for design in Design::ALL {
        let _ = write!(text, "\n| {} |", design.name());
        for property in Property::ALL {
            let _ = write!(text, " {} |", cell_text(cells, examples, design, property));
        }
    }
    let states = cells.iter().map(|cell| cell.exploration.states);
    let (asked, most) = (cells.len(), states.max().unwrap_or(0));
    let _ =
        writeln!(text, "\n\n{asked} questions, none with more than {} states.\n", crate::report::grouped(most as u64));
}

fn cell_text(cells: &[Cell], examples: &Examples, design: Design, property: Property) -> String {
    let here = || cells.iter().filter(|cell| cell.design == design && cell.property == property);
    let lacking: Vec<_> = here().filter(|cell| cell.exploration.schedule.is_some()).collect();
    let mut numbers: Vec<usize> = lacking.iter().filter_map(|cell| examples.number_of(cell)).collect();
    numbers.dedup();
    let links: Vec<String> = numbers.iter().map(|number| format!("[{number}](#{number})")).collect();
    match (lacking.len(), here().count()) {
        (0, _) => "yes".to_owned(),
        (some, all) if some == all => format!("**no** {}", links.join(" ")),
        _ => {
            let names: Vec<_> = lacking.iter().map(|cell| cell.technology.name()).collect();
            format!("**not {}** {}", names.join(", "), links.join(" "))
        }
    }
}

/// Something a mail says of a cell.
struct Saying {
    who: &'static str,
    what: &'static str,
    cell: (Design, Technology, Property),
    has_it: bool,
}

const SAYINGS: [Saying; 10] = [
    Saying {
        who: "Tng",
        what: "bound at creation, an open file keeps a VM around whose descriptors are closed",
        cell: (Design::Creation, Technology::Plain, Property::VmEnds),
        has_it: false,
    },
    Saying {
        who: "Tng",
        what: "bound at creation, closing the file takes it from the VM that uses it",
        cell: (Design::Creation, Technology::Plain, Property::SlotKeeps),
        has_it: false,
    },
    Saying {
        who: "Christopherson",
        what: "bound at memslot, deleting slots and binding to an attacker's VM extracts data",
        cell: (Design::Memslot, Technology::Plain, Property::Private),
        has_it: false,
    },
    Saying {
        who: "Christopherson",
        what: "and with SNP KVM can be made to map memory into a guest whose ASID is the wrong one",
        cell: (Design::Memslot, Technology::Snp, Property::RightKey),
        has_it: false,
    },
    Saying {
        who: "Christopherson",
        what: "(a) keeps other VMs out",
        cell: (Design::NeverAnother, Technology::Plain, Property::Private),
        has_it: true,
    },
    Saying {
        who: "Christopherson",
        what: "(b) makes deleting a slot destroy data, which it does not today",
        cell: (Design::FreeAtUnbind, Technology::Plain, Property::Survives),
        has_it: false,
    },
    Saying {
        who: "Christopherson",
        what: "with TDX, as it is, it does that anyway, whatever the design",
        cell: (Design::Creation, Technology::TdxRemoving, Property::Survives),
        has_it: false,
    },
    Saying {
        who: "Christopherson",
        what: "(c) puts the reclaim off until the TD, which it needs, may be gone",
        cell: (Design::FreeAtForeignBind, Technology::TdxDeferred, Property::Reclaimable),
        has_it: false,
    },
    Saying {
        who: "Christopherson",
        what: "(c) cannot work for SNP: RMP entries would outlive the VM, and its ASID could not be reused",
        cell: (Design::FreeAtForeignBind, Technology::Snp, Property::FreshAsid),
        has_it: false,
    },
    Saying {
        who: "implied",
        what: "a file that pins its VM keeps RMP entries from outliving it",
        cell: (Design::Creation, Technology::Snp, Property::FreshAsid),
        has_it: true,
    },
];

fn write_mails(text: &mut String, cells: &[Cell]) {
    text.push_str("## What the mails say, and what is found\n\n| who | what | found |\n|---|---|---|\n");
    for saying in &SAYINGS {
        let (design, technology, property) = saying.cell;
        let found = find(cells, design, technology, property);
        let verdict = if found == saying.has_it { "so it is" } else { "**not so**" };
        let _ = writeln!(text, "| {} | {} | {verdict} |", saying.who, saying.what);
    }
    text.push('\n');
}

/// Whether a design has a property.
fn find(cells: &[Cell], design: Design, technology: Technology, property: Property) -> bool {
    let asked = |cell: &&Cell| (cell.design, cell.technology, cell.property) == (design, technology, property);
    cells.iter().find(asked).is_some_and(|cell| cell.exploration.schedule.is_none())
}

const WHAT_FOLLOWS: &str = "\
## What follows

**The answer of 2023 stands.** Whatever lets memory outlive its VM fails with SNP or TDX. That includes (a), of which
the mail says that it is easy and defeats the purpose: it does keep other VMs out, but the file can be held open beyond
its VM, and then the ASID is reused while the RMP names it just as in (c). Of the mail's remedies only (b) is safe, at
the price of contents that do not survive their slot.

**What counts is when pages go, not when a file is bound.** The designs without a security hole are those in which the
pages are freed before the key: (b), (a) with pages freed at the VM's end, and binding at creation if something sees to
the order. The row that is not in the thread has every property but the one TDX denies to all. It has its cost: a VM
must find every file it ever had in a slot, and memory vanishes under a file somebody still has open. That is binding at
creation under another name, with the reference turned round. The model weighs no code; the thread did.

**What binding at creation gives up** are exactly Tng's two points. Both are true. The second one is how KVM treats all
memory of user space; the first one is the price of the pin.

**And it has one hole, of which the thread does not speak.** `kvm_gmem_release` drops the file's reference to the VM,
and only later does the VFS evict the inode and free the pages. If that reference was the last one, the VM is destroyed
in between: its ASID can be recycled while the RMP still names it for those pages. Recycling (a WBINVD everywhere, a
DF_FLUSH) does not look at the RMP, and nothing else in Linux 7.2 does. A VMM that closes the file before its VM never
comes there; a kernel that freed the pages before it put the VM would not need to be asked. (Read from the source and
modelled here; that an ASID was reused in that moment has not been observed.)

";

fn write_orders(text: &mut String) {
    text.push_str("How much depends on the order, by the model `closing`, which knows vCPUs, mappings and death:\n\n");
    text.push_str("| of all | the RMP never names a free ASID | it does for a moment |\n|---|---|---|\n");
    for count in closing::counts() {
        let figures = [count.good, count.bad].map(crate::report::grouped);
        let _ = writeln!(text, "| {} | {} |", count.of, figures.join(" | "));
    }
    if let Some(schedule) = closing::shortest_bad_order() {
        text.push_str(
            "\nAn order is bad exactly if a guest_memfd, or a mapping of one, is the last thing to go. A shortest ",
        );
        let _ = writeln!(text, "one:\n\n```text\n{schedule}```\n");
    }
}

const LEFT_OUT: &str = "\
## What the model leaves out

Two VMs, one file, one page, two ASIDs; VM A has the memory, VM B comes later. Each system call is one step, and so is
each piece in which the kernel ends a file or a VM; the races inside the calls are the models `binding` and `mapping`.
Every design gets the best kernel it could have: a VM that ends unbinds its slots before it frees its key, and frees at
unbind are over when the unbind is. What firmware or the TDX module would refuse is not modelled: a reuse that KVM
allows counts. *Private* holds for SNP and TDX wherever it does because of the key, and not because of KVM. Nothing here
says what a design costs in code or time.

";

/// A shortest schedule, and which cells it is of.
struct Example {
    property: Property,
    schedule: Schedule,
    of: Vec<(Design, Technology)>,
}

/// All of them, in the order of columns; those that are the same only once.
struct Examples(Vec<Example>);

impl Examples {
    fn of(cells: &[Cell]) -> Self {
        let mut found: Vec<Example> = Vec::new();
        for property in Property::ALL {
            for cell in cells.iter().filter(|cell| cell.property == property) {
                let Some(schedule) = cell.exploration.schedule.clone() else { continue };
                let of = (cell.design, cell.technology);
                match found.iter_mut().find(|known| known.property == property && known.schedule == schedule) {
                    Some(known) => known.of.push(of),
                    None => found.push(Example { property, schedule, of: vec![of] }),
                }
            }
        }
        Self(found)
    }

    fn number_of(&self, cell: &Cell) -> Option<usize> {
        let of = (cell.design, cell.technology);
        let index = self.0.iter().position(|known| known.property == cell.property && known.of.contains(&of))?;
        Some(index + 1)
    }
}

fn write_examples(text: &mut String, examples: &Examples) {
    text.push_str(
        "## The counterexamples\n\nEach is a shortest one. After its last step the property does not hold.\n",
    );
    let mut last = None;
    for (index, Example { property, schedule, of }) in examples.0.iter().enumerate() {
        if last != Some(*property) {
            let _ = writeln!(text, "\n### {}: {}", column(*property).0, property.name());
            last = Some(*property);
        }
        let mut designs: Vec<(Design, Vec<&str>)> = Vec::new();
        for (design, technology) in of {
            match designs.iter_mut().find(|(known, _)| known == design) {
                Some((_, technologies)) => technologies.push(technology.name()),
                None => designs.push((*design, vec![technology.name()])),
            }
        }
        let _ = writeln!(text, "\n<a id=\"{0}\"></a>**{0}.**\n", index + 1);
        let all = Technology::ALL.iter().filter(|technology| property.applies_to(**technology)).count();
        for (design, names) in designs {
            let where_from = if names.len() == all { String::new() } else { format!(": {}", names.join(", ")) };
            let _ = writeln!(text, "- {}{where_from}", design.name());
        }
        let _ = writeln!(text, "\n```text\n{schedule}```");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacks(cells: &[Cell], design: Design) -> Vec<(Technology, Property)> {
        let of = cells.iter().filter(|cell| cell.design == design && cell.exploration.schedule.is_some());
        let mut lacking: Vec<_> = of.map(|cell| (cell.technology, cell.property)).collect();
        lacking.sort();
        lacking
    }

    /// The words under the table say these things; should the model find otherwise, the words are to be changed.
    #[test]
    fn the_words_are_true() {
        use Property::{FreshAsid, Reclaimable, RightKey, SlotKeeps, Survives, VmEnds};
        use Technology::{Plain, Snp, TdxDeferred, TdxRemoving};
        let cells = cells();
        let creation = lacks(&cells, Design::Creation);
        let beyond = |of: &[(Technology, Property)]| {
            of.iter().copied().filter(|(_, what)| !matches!(what, VmEnds | SlotKeeps)).collect::<Vec<_>>()
        };
        assert_eq!(beyond(&creation), [(Snp, FreshAsid), (TdxRemoving, Survives)], "the one hole, and TDX's own");
        for price in [VmEnds, SlotKeeps] {
            assert!(Technology::ALL.iter().all(|tee| creation.contains(&(*tee, price))), "{price:?}");
        }
        for closed in [Design::CreationClosedFirst, Design::CreationPagesFirst] {
            assert_eq!(beyond(&lacks(&cells, closed)), [(TdxRemoving, Survives)], "the hole is closed");
        }
        assert_eq!(lacks(&cells, Design::FreeAtVmEnd), [(TdxRemoving, Survives)]);
        let safe = |(_, what): &(Technology, Property)| *what == Survives;
        assert!(lacks(&cells, Design::FreeAtUnbind).iter().all(safe), "(b) is safe");
        for design in [Design::Memslot, Design::NeverAnother, Design::FreeAtForeignBind] {
            let lacking = lacks(&cells, design);
            assert!(lacking.contains(&(Snp, FreshAsid)) && lacking.contains(&(TdxDeferred, Reclaimable)), "{design:?}");
        }
        assert!(!lacks(&cells, Design::NeverAnother).contains(&(Snp, RightKey)), "(a) keeps other VMs out");
        assert!(find(&cells, Design::Creation, Plain, Survives));
        let wrong: Vec<_> = SAYINGS
            .iter()
            .filter(|saying| {
                let (design, technology, property) = saying.cell;
                find(&cells, design, technology, property) != saying.has_it
            })
            .map(|saying| saying.who)
            .collect();
        assert_eq!(wrong, ["implied"], "what the mails say themselves is found to be so");
    }

    /// A property that every design has, or none, would say nothing.
    #[test]
    fn every_property_tells_designs_apart() {
        let cells = cells();
        for property in Property::ALL {
            let mut of = cells.iter().filter(|cell| cell.property == property);
            assert!(of.clone().any(|cell| cell.exploration.schedule.is_some()), "no design lacks {property:?}");
            assert!(of.any(|cell| cell.exploration.schedule.is_none()), "no design has {property:?}");
        }
    }
}
