//! Does nothing but for the feature `ipsec-mb`, which wants a little C compiled and Intel's library linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "ipsec-mb")]
    ipsec_mb();
}

#[cfg(feature = "ipsec-mb")]
fn ipsec_mb() {
    const SHIM: &str = "src/sys/ipsec_mb/shim.c";
    println!("cargo::rerun-if-changed={SHIM}");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    assert!(arch == "x86_64", "the feature ipsec-mb is for x86-64, not for {arch}");
    let compiled =
        cc::Build::new().file(SHIM).warnings(true).extra_warnings(true).try_compile("laneway_ipsec_mb");
    if let Err(error) = compiled {
        panic!(
            "the feature ipsec-mb needs a C compiler and Intel's library (Debian: libipsec-mb-dev): {error}"
        );
    }
    // Debian's package has no file for pkg-config.
    println!("cargo::rustc-link-lib=IPSec_MB");
}
