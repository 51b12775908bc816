//! How many commands a script has, counted by its parentheses alone: what a runner that loses commands could not know.

/// What the fields of modules begin with. A text that begins so is one module.
const FIELDS: [&str; 12] = [
    "type", "rec", "import", "func", "table", "memory", "tag", "global", "export", "start", "elem", "data",
];

/// The commands of a script, those of its threads included.
pub fn count(script: &str) -> usize {
    let (mut depth, mut count, mut is_in_thread) = (0, 0, false);
    let mut rest = script;
    while let Some(at) = rest.find(['(', ')', '"', ';']) {
        rest = &rest[at..];
        let length = skipped(rest);
        if length > 0 {
            rest = &rest[length..];
            continue;
        }
        if let Some(inside) = rest.strip_prefix('(') {
            let is_command = depth == 0 || depth == 1 && is_in_thread && !inside.starts_with("shared");
            // `(@..` is an annotation.
            if is_command && !inside.starts_with('@') {
                if count == 0 && FIELDS.iter().any(|field| inside.trim_start().starts_with(field)) {
                    return 1;
                }
                count += 1;
            }
            is_in_thread |= depth == 0 && inside.starts_with("thread");
            depth += 1;
        } else if rest.starts_with(')') {
            depth -= 1;
            is_in_thread &= depth > 0;
        }
        rest = &rest[1..];
    }
    assert_eq!(depth, 0, "parentheses that match");
    count
}

/// How many bytes of this are a comment or a string, if it starts with one.
fn skipped(text: &str) -> usize {
    if text.starts_with(";;") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("(;") {
        return block_comment(text);
    }
    let Some(string) = text.strip_prefix('"') else {
        return 0;
    };
    let mut is_escaped = false;
    let end = string.find(|c| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        let rest = &text[at..];
        let Some(next) = rest.find("(;").into_iter().chain(rest.find(";)")).min() else {
            return text.len();
        };
        depth += if rest[next..].starts_with("(;") { 1 } else { -1 };
        at += next + 2;
        if depth == 0 {
            return at;
        }
    }
}

#[test]
fn commands_are_counted_whatever_stands_between_them() {
    let script = r#"
        ;; (module)
        (; (module) (; (module) ;) ;)
        (module (func (export "a(b") (nop))) (@name "(module)")
        (assert_return (invoke "a\"(") (i32.const 1))
        (thread $t (shared (module $m)) (register "m" $m) (assert_return (invoke "f")))
        (wait $t)"#;
    assert_eq!(count(script), 6);
    assert_eq!(count("(func) (memory 0)"), 1);
}
