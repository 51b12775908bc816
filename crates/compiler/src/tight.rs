//! Tight loops that lie in one cache line each (x86-64).
//!
//! A processor fetches and keeps decoded code by lines. A loop of a few instructions that begins in one line and ends in the
//! next needs both each turn, and can take half as long again; Cranelift does not align loops. Functions with loops
//! start on a line (`crates/compiler/src/link.rs`), so where a loop lies is known once its function is compiled. If
//! one that would fit into a line lies across two, the function is compiled again with fences in front of the loop, which then
//! become operations that do nothing. All branches have one size: what comes behind moves by just that much.
//!
//! Only where fuel is counted: the check tells where a loop's header is. Only in short functions: there such loops
//! matter, and compiling twice does not. Where a loop ends is told by its branch back, found by its bytes: what only looks like one costs a
//! few bytes of space and nothing else. (Cranelift's own list of blocks and edges is wrong where blocks are cold.)

/// Size of a line in bytes.
const LINE: usize = 64;
/// Size of a fence in bytes.
const FENCE: usize = 3;
/// Functions with more code than this, in bytes, are left as they are.
const MOST_CODE: usize = 1024;

/// How many fences to put in front of each loop, by its number. `headers` are the loops' numbers and the offsets of their checks, in
/// the order of the offsets. Empty if all is well.
pub(crate) fn padding(code: &[u8], headers: &[(u32, u32)]) -> Vec<u8> {
    let mut padding = Vec::new();
    if code.len() > MOST_CODE {
        return padding;
    }
    let mut moved = 0;
    for (number, start) in headers {
        let (number, start) = (*number as usize, *start as usize);
        let fences = turn_bytes(code, start).map_or(0, |bytes| fences(start + moved, bytes));
        if fences > 0 {
            padding.resize(padding.len().max(number + 1), 0);
            padding[number] = fences as u8;
            moved += fences * FENCE;
        }
    }
    padding
}

/// From a loop's header to behind the last branch back, if that is near enough.
fn turn_bytes(code: &[u8], start: usize) -> Option<usize> {
    let near = code.len().min(start + LINE);
    let mut ends = (start + 1..near.saturating_sub(3)).filter(|at| {
        let distance = code[*at..].first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
        is_branch(&code[start..*at]) && distance == Some(start as i32 - *at as i32 - 4)
    });
    ends.next_back().map(|at| at + 4 - start)
}

/// Whether code ends with the opcode of a branch whose distance follows.
fn is_branch(code: &[u8]) -> bool {
    matches!(code, [.., 0x0f, 0x80..=0x8f] | [.., 0xe9])
}

/// How many fences move code of this size into one line, if that helps.
fn fences(start: usize, bytes: usize) -> usize {
    let crosses = |start: usize| start % LINE + bytes > LINE;
    if !crosses(start) {
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

    #[test]
    fn loops_behind_one_that_moves_move_along() {
        let code = code(130, &[(40, 90), (100, 120)]);
        // 40 + 24 = 64: the second loop goes from 100 to 124, and would lie across 128.
        assert_eq!(padding(&code, &[(0, 40), (1, 100)]), [8, 2]);
        assert_eq!(padding(&code, &[(1, 40), (0, 100)]), [2, 8], "by their numbers");
    }

    #[test]
    fn what_is_no_tight_loop_stays() {
        let none: [u8; 0] = [];
        assert_eq!(padding(&code(130, &[(40, 90)]), &[(0, 41)]), none);
        assert_eq!(padding(&code(130, &[(40, 105)]), &[(0, 40)]), none, "too long");
        assert_eq!(padding(&code(MOST_CODE + 1, &[(40, 90)]), &[(0, 40)]), none);
        assert_eq!(padding(&code(43, &[]), &[(0, 40)]), none, "at the end");
    }
}
