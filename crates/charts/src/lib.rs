//! Charts as SVG, and pages that need nothing else: no script, no font, no other file.
//!
//! | module | holds |
//! | --- | --- |
//! | [`chart`] | bars and lines |
//! | [`page`](mod@page) | the HTML around them, for a screen of any width and for paper |

pub mod chart;
pub mod page;
