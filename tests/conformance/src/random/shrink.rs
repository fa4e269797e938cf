//! Making a sequence small: lines are taken out, then made plainer, as long as it still disagrees.

use crate::op::{Op, PAGE, Place, Slot};

/// The smallest sequence found that still `fails`.
pub fn shrink(ops: &[Op], mut fails: impl FnMut(&[Op]) -> bool) -> Vec<Op> {
    let mut ops = ops.to_vec();
    loop {
        let before = ops.clone();
        take_out(&mut ops, &mut fails);
        make_plainer(&mut ops, &mut fails);
        if ops == before {
            return ops;
        }
    }
}

/// Runs of lines, long ones first.
fn take_out(ops: &mut Vec<Op>, fails: &mut impl FnMut(&[Op]) -> bool) {
    let mut len = ops.len() / 2;
    while len > 0 {
        let mut start = 0;
        while start < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(start..(start + len).min(ops.len()));
            if fails(&fewer) {
                *ops = fewer;
            } else {
                start += len;
            }
        }
        len /= 2;
    }
}

fn make_plainer(ops: &mut [Op], fails: &mut impl FnMut(&[Op]) -> bool) {
    for index in 0..ops.len() {
        for plainer in plainer(ops[index]) {
            let old = std::mem::replace(&mut ops[index], plainer);
            if old == plainer || !fails(ops) {
                ops[index] = old;
            }
        }
    }
}

/// The same with one thing less about it.
fn plainer(op: Op) -> Vec<Op> {
    match op {
        Op::SetSlot { vm, slot } => {
            let with = |slot: Slot| Op::SetSlot { vm, slot };
            vec![
                with(Slot { size: slot.size.min(PAGE), ..slot }),
                with(Slot { offset: 0, ..slot }),
                with(Slot { id: 0, ..slot }),
                with(Slot { hva: Place::Raw(0), ..slot }),
                with(Slot { gpa: 0x4000_0000, ..slot }),
            ]
        }
        Op::CreateFile { file, vm, size, flags } => {
            vec![Op::CreateFile { file, vm, size: PAGE, flags }, Op::CreateFile { file, vm, size, flags: 0 }]
        }
        Op::SetAttributes { vm, gpa, attributes, flags, .. } => {
            vec![Op::SetAttributes { vm, gpa, size: PAGE, attributes, flags }]
        }
        Op::Fallocate { file, mode, offset, len } => {
            vec![Op::Fallocate { file, mode, offset: 0, len }, Op::Fallocate { file, mode, offset, len: PAGE }]
        }
        Op::Map { map, file, len, sharing, protection, .. } => {
            vec![Op::Map { map, file, offset: 0, len, sharing, protection }]
        }
        Op::GuestRead(cpu, gpa) => vec![Op::GuestRead(cpu, gpa & !(PAGE - 1))],
        Op::GuestWrite(cpu, gpa, value) => vec![Op::GuestWrite(cpu, gpa & !(PAGE - 1), value)],
        Op::Prefault { cpu, gpa, flags, .. } => vec![Op::Prefault { cpu, gpa, size: PAGE, flags }],
        _ => Vec::new(),
    }
}
