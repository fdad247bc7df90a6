"""Makes span_counts.csv: lengths of corrupted texts by the formulas of T5's authors
(`random_spans_noise_mask` and `random_spans_helper` of the t5 package, in NumPy).

python make_span_counts.py > span_counts.csv
"""

import numpy as np


def counts(length, density, mean_span):
    length = max(length, 2)
    noise = int(np.round(length * density))
    noise = min(max(noise, 1), length - 1)
    spans = max(int(np.round(noise / mean_span)), 1)
    # Each span follows some text; later versions of the package say so, too.
    return noise, min(spans, length - noise)


def source_and_target(length, density, mean_span):
    noise, spans = counts(length, density, mean_span)
    return length - noise + spans + 1, noise + spans + 1


print("length,density,mean_span,noise,spans,source,target")
for density, mean_span in [(0.15, 3.0), (0.15, 8.0), (0.3, 3.0), (0.5, 1.0), (0.01, 2.0)]:
    for length in [*range(2, 40), 113, 128, 142, 255, 512, 567, 568, 569, 1137]:
        noise, spans = counts(length, density, mean_span)
        source, target = source_and_target(length, density, mean_span)
        print(f"{length},{density},{mean_span},{noise},{spans},{source},{target}")
