//! The scenarios of this package. The code that they check has unit tests of its own, which
//! a test build would compile too; so the scenarios are in the library.

macro_rules! tests {
    ($($module:ident::$name:ident,)+) => {
        $(
            #[test]
            fn $name() {
                penstock_interleavings::$name();
            }
        )+
    };
}

penstock_interleavings::scenarios!(tests);
