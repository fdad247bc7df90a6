//! Finds functions, test modules and `unsafe` among a source's tokens.
//!
//! Tokens and not syn's tree, which ends at a macro: `proptest!` and the kernels' own macros have
//! functions and `unsafe` inside.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The tokens of a Rust source, which compiles or no test would run.
pub(crate) fn tokens(text: &str) -> TokenStream {
    text.parse().unwrap_or_else(|error| panic!("no Rust: {error}\n{text}"))
}

/// A function with a body.
#[derive(Debug, PartialEq)]
pub(crate) struct FunctionText {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Lines from `fn` to the closing brace.
    pub(crate) length: usize,
}

/// The functions outside `#[cfg(test)]` modules, in the order in which they begin.
pub(crate) fn functions(tokens: TokenStream) -> Vec<FunctionText> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) if !is_test_module(&tokens[..at], group) => {
                found.extend(functions(group.stream()));
            }
            TokenTree::Ident(word) if word == "fn" => found.extend(function(&tokens[at..])),
            _ => {}
        }
    }
    found
}

/// The function that `tokens` begin with; none where a type or a declaration does.
fn function(tokens: &[TokenTree]) -> Option<FunctionText> {
    let [start, TokenTree::Ident(name), rest @ ..] = tokens else { return None };
    let is_end =
        |token: &&TokenTree| matches!(token, TokenTree::Punct(end) if end.as_char() == ';');
    let body = rest.iter().find(|token| is_end(token) || braces(token).is_some());
    let line = start.span().start().line;
    let last = braces(body?)?.span_close().end().line;
    Some(FunctionText { name: name.to_string(), line, length: last - line + 1 })
}

fn braces(token: &TokenTree) -> Option<&Group> {
    match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group),
        _ => None,
    }
}

/// Whether `before` ends in `#[cfg(test)] mod NAME` and `body` is that module's.
fn is_test_module(before: &[TokenTree], body: &Group) -> bool {
    let [.., TokenTree::Group(attribute), TokenTree::Ident(word), TokenTree::Ident(_)] = before
    else {
        return false;
    };
    body.delimiter() == Delimiter::Brace
        && word == "mod"
        && attribute.stream().to_string().replace(' ', "") == "cfg(test)"
}

/// A place that says `unsafe`.
#[derive(Debug, PartialEq)]
pub(crate) struct Unsafe {
    pub(crate) line: usize,
    /// It vouches for something, as a block or an implementation does; a declaration asks others
    /// to.
    pub(crate) vouches: bool,
}

/// Every `unsafe`, from the first to the last.
pub(crate) fn unsafe_places(tokens: TokenStream) -> Vec<Unsafe> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => found.extend(unsafe_places(group.stream())),
            TokenTree::Ident(word) if word == "unsafe" => {
                let next = tokens.get(at + 1);
                let is_impl = matches!(next, Some(TokenTree::Ident(word)) if word == "impl");
                let vouches = is_impl || next.and_then(braces).is_some();
                found.push(Unsafe { line: word.span().start().line, vouches });
            }
            _ => {}
        }
    }
    found
}

#[test]
fn comments_and_literals_have_no_tokens() {
    for text in [
        "// unsafe {}",
        "/* unsafe { /* unsafe {} */ } */",
        r#"const A: &str = "unsafe { \" ";"#,
        r##"const A: &str = r#"unsafe {"#;"##,
        "/// unsafe { b() }\nconst A: char = '{';",
    ] {
        assert_eq!(unsafe_places(tokens(text)), [], "{text}");
    }
}

#[test]
fn unsafe_is_found_in_macros_too() {
    let text = "unsafe fn a() {}\nm! {\n    b(unsafe { c() })\n}\nunsafe impl D for E {}\n";
    let found: Vec<_> =
        unsafe_places(tokens(text)).into_iter().map(|place| (place.line, place.vouches)).collect();
    assert_eq!(found, [(1, false), (3, true), (5, true)]);
}

#[test]
fn functions_are_measured_from_signature_to_brace() {
    let text = "fn one() {}\n\
        pub fn two<const N: usize>(\n    a: [u8; N],\n) -> fn(u8) -> u8 {\n    {\n    }\n}\n\
        trait T {\n    fn declared(a: [u8; 4]);\n    fn given(&self) {\n    }\n}\n\
        #[cfg(test)]\nmod tests {\n    fn hidden() {\n    }\n}\n\
        proptest! {\n    fn generated(a in 0..4) {\n    }\n}\nfn last() { \"}\" }\n";
    let found: Vec<_> = functions(tokens(text))
        .into_iter()
        .map(|function| (function.name, function.line, function.length))
        .collect();
    let expected =
        [("one", 1, 1), ("two", 2, 6), ("given", 10, 2), ("generated", 19, 2), ("last", 22, 1)];
    assert_eq!(found, expected.map(|(name, line, length)| (name.to_owned(), line, length)));
}
