//! How loops lie in cache lines (x86-64).
//!
//! A processor fetches and keeps decoded code by lines. A loop of a few instructions that begins in one line and ends in the
//! next needs both each turn, and can take half as long again; of a longer one each line more takes a cycle a turn. Cranelift does
//! not align loops. Where one lies within its function is known once that is compiled. Then two things are done:
//!
//! 1. The function starts where the borders between lines do the least harm: a border costs a turn of a loop the more, the deeper
//!    the loop and the shorter its turn.
//! 2. If a loop that would fit into a line still lies across two, the function is compiled again with fences in front of the loop,
//!    which then become operations that do nothing. All branches have one size: what comes behind moves by just that much. What is
//!    better of the two is taken.
//!
//! Only in short functions: there such loops matter, and compiling twice does not. Where a loop lies is told by its branches
//! back: a site says where their code begins, and their bytes where they lead. What only looks like one costs a few bytes of
//! space and nothing else. (Cranelift's own list of blocks and edges is wrong where blocks are cold.)

/// Size of a line in bytes.
pub(crate) const LINE: usize = 64;
/// Size of a fence in bytes.
const FENCE: usize = 3;
/// A branch, with the comparison before it and moves before a jump, takes at most this, in bytes.
const MOST_BRANCH: usize = 40;
/// The length of a conditional branch.
const BRANCH_BYTES: usize = 6;
/// The opcode of a call.
const CALL: u8 = 0xe8;
/// Functions with more code than this, in bytes, are left as they are.
const MOST_CODE: usize = 4096;
/// Functions with more code than this, in bytes, are not compiled again.
const MOST_CODE_TWICE: usize = 1024;
/// Functions start at multiples of this in a line, in bytes.
const STEP: usize = 4;
/// A loop is taken to turn 8 times as often as the code around it, up to this depth.
const MOST_DEPTH: u32 = 6;

/// How a function lies best.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lie {
    /// Where in a line it starts.
    pub(crate) shift: u32,
    /// What that costs; only good for comparisons.
    pub(crate) cost: u64,
    /// How many fences to put in front of each loop, by its number. Empty if no loop needs any.
    pub(crate) padding: Vec<u8>,
}

impl Lie {
    /// Of a function that has to start at multiples of `alignment`. `branches` are the numbers of the loops to which there are branches
    /// back, and the offsets where the code of those begins.
    pub(crate) fn of(code: &[u8], branches: &[(u32, u32)], alignment: u32) -> Lie {
        if branches.is_empty() || code.len() > MOST_CODE {
            return Lie::default();
        }
        let turns = turns(code, branches);
        let costs = costs(code, &turns);
        let shifts = (0..LINE).step_by(STEP.max(alignment as usize));
        let cost = |shift: usize| costs.iter().skip(LINE - shift).step_by(LINE).sum::<u64>();
        let best = shifts.map(|shift| (cost(shift), shift)).min();
        let (cost, shift) = best.expect("0 is one of them");
        let padding = match code.len() {
            ..=MOST_CODE_TWICE => padding(&turns, shift),
            _ => Vec::new(),
        };
        Lie {
            shift: shift as u32,
            cost,
            padding,
        }
    }
}

/// For each offset what it costs if a line begins there.
fn costs(code: &[u8], turns: &[Turn]) -> Vec<u64> {
    let mut outermost: Vec<&Turn> = turns.iter().collect();
    outermost.sort_by_key(|turn| std::cmp::Reverse(turn.end - turn.start));
    let (mut costs, mut depths) = (vec![0; code.len()], vec![0; code.len()]);
    for turn in outermost {
        let (first, last) = always(code, turn);
        // Where the header begins a line, the turn does not lie across its border.
        for at in turn.start + 1..turn.end {
            depths[at] = MOST_DEPTH.min(depths[at] + 1);
            let is_always = at < first || at > last || turn.end - turn.start <= LINE;
            costs[at] = 1 << (3 * depths[at] + if is_always { 2 } else { 0 });
        }
    }
    costs
}

/// What of a turn is executed each time, as far as bytes tell: up to the end of its first branch, and from the last place that is
/// branched to or behind a branch.
fn always(code: &[u8], turn: &Turn) -> (usize, usize) {
    let (mut first, mut last) = (turn.end, turn.start);
    for at in turn.start + 1..turn.end.saturating_sub(BRANCH_BYTES) {
        let Some((target, end)) = branch(code, at) else {
            continue;
        };
        if code.get(target) == Some(&CALL) {
            continue; // to a cold call, once in a while
        }
        first = first.min(end);
        last = last.max(end);
        if (turn.start..turn.end).contains(&target) {
            last = last.max(target);
        }
    }
    (first, last)
}

/// The fences in front of each loop, by its number, in a function that starts here in a line.
fn padding(turns: &[Turn], shift: usize) -> Vec<u8> {
    let mut padding = Vec::new();
    let mut moved = shift;
    for turn in turns {
        let fences = fences(turn.start + moved, turn.end - turn.start);
        if fences > 0 {
            padding.resize(padding.len().max(turn.number + 1), 0);
            padding[turn.number] = fences as u8;
            moved += fences * FENCE;
        }
    }
    padding
}

/// A turn of a loop, from its header to behind the last branch back.
#[derive(Debug)]
struct Turn {
    number: usize,
    start: usize,
    end: usize,
}

/// The turns, in the order of their headers. Of loops with one header the outermost.
fn turns(code: &[u8], branches: &[(u32, u32)]) -> Vec<Turn> {
    let turns = branches.iter().filter_map(|(number, from)| {
        let (start, end) = branch_back(code, *from as usize)?;
        let number = *number as usize;
        Some(Turn { number, start, end })
    });
    let mut turns: Vec<_> = turns.collect();
    turns.sort_unstable_by_key(|turn| (turn.start, turn.end));
    turns.dedup_by(|next, last| {
        let is_same = next.start == last.start;
        if is_same {
            (last.number, last.end) = (next.number, next.end);
        }
        is_same
    });
    turns
}

/// Where the branch leads whose code begins here, and its end, if that is back.
fn branch_back(code: &[u8], from: usize) -> Option<(usize, usize)> {
    let most = code.len().min(from + MOST_BRANCH);
    let branches = (from + 1..most).filter_map(|at| branch(code, at));
    let mut back = branches.filter(|(target, _)| *target <= from);
    back.next()
}

/// Where a branch leads whose distance stands here, and its end. One through a register leads nowhere.
fn branch(code: &[u8], at: usize) -> Option<(usize, usize)> {
    match code[..at] {
        [.., 0xff, 0xe0..=0xe7] => return Some((usize::MAX, at)),
        [.., 0x0f, 0x80..=0x8f] | [.., 0xe9] => {}
        _ => return None,
    }
    let distance = i32::from_le_bytes(*code.get(at..)?.first_chunk()?);
    let target = (at + 4).checked_add_signed(distance as isize)?;
    (target < code.len()).then_some((target, at + 4))
}

/// How many fences move code of this size into one line, if that helps.
fn fences(start: usize, bytes: usize) -> usize {
    let crosses = |start: usize| start % LINE + bytes > LINE;
    if bytes > LINE || !crosses(start) {
        return 0;
    }
    let fences = (LINE - start % LINE).div_ceil(FENCE);
    match crosses(start + fences * FENCE) {
        true => 0,
        false => fences,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOP: u8 = 0x90;

    /// Code with loops from one offset to another.
    fn code(bytes: usize, loops: &[(usize, usize)]) -> Vec<u8> {
        let mut code = vec![NOP; bytes];
        for (start, end) in loops {
            code[end - 6..end - 4].copy_from_slice(&[0x0f, 0x85]);
            let distance = *start as i32 - *end as i32;
            code[end - 4..*end].copy_from_slice(&distance.to_le_bytes());
        }
        code
    }

    #[test]
    fn what_fits_into_a_line_is_moved_into_one() {
        assert_eq!(fences(0, 64), 0, "it lies well");
        assert_eq!(fences(24, 40), 0, "it just lies well");
        assert_eq!(fences(25, 40), 13, "25 + 39 = 64");
        assert_eq!(fences(62, 40), 1);
        assert_eq!(fences(62, 64), 0, "fences would bring it to 65");
        assert_eq!(fences(10, 65), 0, "too long for a line");
    }

    /// Where the code of the branches back begins, of loops with these ends.
    fn branches(loops: &[(usize, usize)]) -> Vec<(u32, u32)> {
        let ends = loops.iter().enumerate();
        ends.map(|(number, (_, end))| (number as u32, *end as u32 - BRANCH_BYTES as u32))
            .collect()
    }

    fn turns_of(loops: &[(usize, usize)], bytes: usize) -> Vec<(usize, usize, usize)> {
        let turns = turns(&code(bytes, loops), &branches(loops));
        turns
            .iter()
            .map(|turn| (turn.number, turn.start, turn.end))
            .collect()
    }

    #[test]
    fn a_turn_ends_behind_the_last_branch_back() {
        assert_eq!(turns_of(&[(40, 90)], 130), [(0, 40, 90)]);
        assert_eq!(
            turns_of(&[(40, 90), (40, 120), (60, 80)], 130),
            [(1, 40, 120), (2, 60, 80)]
        );
        let none = turns(&code(130, &[(40, 90)]), &[(0, 30)]);
        assert!(none.is_empty(), "no branch begins within reach of 30: {none:?}");
        let none = turns(&code(90, &[(40, 90)]), &[(0, 88)]);
        assert!(none.is_empty(), "at the end: {none:?}");
    }

    #[test]
    fn a_branch_ahead_is_none_back() {
        let mut code = code(130, &[(40, 90)]);
        code[86..90].copy_from_slice(&20_i32.to_le_bytes());
        assert_eq!(branch(&code, 86), Some((110, 90)));
        assert_eq!(branch_back(&code, 84), None);
        code[86..90].copy_from_slice(&1000_i32.to_le_bytes());
        assert_eq!(branch(&code, 86), None, "out of the function");
    }

    #[test]
    fn loops_behind_one_that_moves_move_along() {
        // 40 + 24 = 64: the second loop goes from 100 to 124, and would lie across 128.
        let loops = [(40, 90), (100, 120)];
        let turns = turns(&code(130, &loops), &branches(&loops));
        assert_eq!(padding(&turns, 0), [8, 2]);
        assert_eq!(padding(&turns, 24), [0, 2], "from 64 to 114, from 124 to 144");
        let swapped = [(100, 120), (40, 90)];
        let turns = super::turns(&code(130, &swapped), &branches(&swapped));
        assert_eq!(padding(&turns, 0), [2, 8], "by their numbers");
    }

    #[test]
    fn a_function_starts_where_its_loops_lie_well() {
        let lie = |loops: &[(usize, usize)], bytes, alignment| {
            Lie::of(&code(bytes, loops), &branches(loops), alignment)
        };
        assert_eq!(lie(&[(10, 60)], 130, 1).shift, 0, "it lies well");
        assert_eq!(lie(&[(40, 90)], 130, 1).shift, 24, "40 + 24 = 64");
        assert_eq!(lie(&[(40, 90)], 130, 16).shift, 32, "a multiple of 16");
        assert_eq!(lie(&[(40, 90)], 130, 64).shift, 0);
        assert_eq!(lie(&[(40, 90)], 130, 64).padding, [8]);
        let both = lie(&[(40, 90), (100, 120)], 130, 1);
        assert_eq!(
            (both.shift, both.padding),
            (28, vec![]),
            "from 68 to 118, from 128 to 148"
        );
        assert_eq!(lie(&[(40, 90)], MOST_CODE + 1, 1), Lie::default());
        assert_eq!(lie(&[], 130, 1), Lie::default());
    }

    #[test]
    fn the_inner_loop_comes_first_and_then_what_is_always_executed() {
        // A loop of 120 bytes has a border in it wherever it starts.
        let loops = [(10, 130), (50, 90)];
        let mut code = code(140, &loops);
        let shift = |code: &[u8]| Lie::of(code, &branches(&loops), 1).shift as usize;
        let border = |shift: usize| (64 - shift..130).step_by(64).collect::<Vec<_>>();
        let borders = border(shift(&code));
        assert!(borders.iter().all(|at| !(51..90).contains(at)), "{borders:?}");
        // A branch from 24 to 100 in the outer loop: up to 30, and from 100 on, it is executed each time.
        code[24..26].copy_from_slice(&[0x0f, 0x84]);
        code[26..30].copy_from_slice(&70_i32.to_le_bytes());
        let borders = border(shift(&code));
        let always = |at: &usize| (11..30).contains(at) || (51..90).contains(at) || (101..130).contains(at);
        assert!(!borders.iter().any(always), "{borders:?}");
    }
}
