use leadline_kernel::batch::*;
use leadline_kernel::sketches::*;
use std::sync::Arc;
use std::time::Instant;
// args: in.f64 (rows x k, row major) k windows versions out.bin bins(0/1)
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let raw = std::fs::read(&a[1]).unwrap();
    let k: usize = a[2].parse().unwrap();
    let windows: usize = a[3].parse().unwrap();
    let versions: usize = a[4].parse().unwrap();
    let data: Vec<f64> = raw
        .chunks_exact(8)
        .map(|c| f64::from_le_bytes(c.try_into().unwrap()))
        .collect();
    let n = data.len() / k;
    let mut s = Sketches::new(Config::default()).unwrap();
    if a[6] == "1" {
        let refs = (0..k)
            .map(|j| {
                let mut col: Vec<f64> = (0..n.min(100000)).map(|i| data[i * k + j]).collect();
                col.sort_by(f64::total_cmp);
                let mut e: Vec<f64> = (0..=20).map(|q| col[(q * (col.len() - 1)) / 20]).collect();
                e.dedup();
                (
                    "m".into(),
                    format!("features/f{j}").into(),
                    Bins::new("b1", e, vec![], vec![]).unwrap(),
                )
            })
            .collect();
        s.set_references(refs).unwrap();
    }
    let per = 513;
    let mut add_ns = 0u128;
    let mut i = 0;
    let per_window = n.div_ceil(windows);
    while i < n {
        let m = per.min(n - i);
        let b = SpanBatch {
            body: Arc::new(Vec::<u8>::new()),
            receive_ns: 0,
            resources: vec![],
            scopes: vec![],
            spans: vec![],
            groups: (0..versions)
                .map(|v| Group {
                    model: "m".into(),
                    version: format!("{v}").into(),
                    role: "".into(),
                })
                .collect(),
            predictions: (0..m)
                .map(|r| Prediction {
                    span: 0,
                    group: ((i + r) % versions) as u32,
                    event_ns: ((i + r) / per_window) as i64 * 60_000_000_000
                        + 4_102_444_800_000_000_000,
                    duration_ns: 1,
                    weight: f64::NAN,
                    row: 0..0,
                })
                .collect(),
            series: (0..k).map(|j| format!("features/f{j}").into()).collect(),
            numeric: (0..m)
                .flat_map(|r| {
                    let d = &data;
                    (0..k).map(move |j| Numeric {
                        prediction: r as u32,
                        series: j as u32,
                        value: d[(i + r) * k + j],
                    })
                })
                .collect(),
            categorical: vec![],
            missing: vec![],
            text: vec![],
            rows: vec![],
            rejected: vec![],
            notes: vec![],
        };
        let t = Instant::now();
        s.add(&b);
        add_ns += t.elapsed().as_nanos();
        i += m;
    }
    let t = Instant::now();
    let (out, rows) = s.drain("c", 1);
    let dr = t.elapsed().as_nanos();
    eprintln!(
        "rows {rows} bytes {} add {:.1} ns/value drain {:.1} ns/value",
        out.len(),
        add_ns as f64 / (n * k) as f64,
        dr as f64 / (n * k) as f64
    );
    std::fs::write(&a[5], out).unwrap();
}
