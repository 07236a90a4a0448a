"""Ground truth and detections for tests: written by hand, random, and drawn by hypothesis."""

import numpy as np
from hypothesis import strategies as st


def truth(*objects, images=2, size=100, names=("cat", "dog")):
    """COCO annotations of (image 1.., category 1.., box xywh, further keys) objects."""
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": size, "width": size} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": n} for k, n in enumerate(names, 1)],
        "annotations": [
            {
                "id": j,
                "image_id": i,
                "category_id": c,
                "bbox": b,
                "area": b[2] * b[3],
                "iscrowd": 0,
                **(more[0] if more else {}),
            }
            for j, (i, c, b, *more) in enumerate(objects, 1)
        ],
    }


def det(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def random_case(seed, images=30, classes=4, string_ids=False):
    """Return random ground truth and detections: shifted, duplicate, missing and misclassified boxes, with many score ties."""
    rng = np.random.default_rng(seed)
    ground_truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3 * c, "name": f"c{c}"} for c in range(classes)],
    }
    detections = []
    for i in range(images):
        image = f"im{i:03d}" if string_ids else 17 * i
        ground_truth["images"].append({"id": image, "width": 500, "height": 500})
        for _ in range(rng.integers(0, 8)):
            x, y = rng.uniform(0, 300, 2)
            w, h = np.exp(rng.uniform(np.log(8), np.log(200), 2))
            c = int(3 * rng.integers(classes))
            ground_truth["annotations"].append(
                {
                    "id": len(ground_truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": c,
                    "bbox": [x, y, w, h],
                    "area": w * h * rng.uniform(0.5, 1),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, 0.1, 4) * [w, h, w, h]
                detections.append(
                    {
                        "image_id": image,
                        "category_id": c if rng.random() < 0.9 else 0,
                        "bbox": [x + shift[0], y + shift[1], max(w + shift[2], 1), max(h + shift[3], 1)],
                        "score": round(float(rng.random()), 1),
                    }
                )
    rng.shuffle(detections)
    return ground_truth, detections


side = st.integers(0, 12)
box = st.tuples(side, side, side, side).map(lambda b: [10.0 * v for v in b])


@st.composite
def cases(draw):
    """A few boxes on a coarse grid, so that overlaps, equal boxes, boxes without area and ties of scores are common."""
    huge = draw(st.sampled_from([1, 2**40 + 1, 0.5]))  # ids: small, huge, or not whole numbers
    images = [huge * i for i in range(1, draw(st.integers(1, 3)) + 1)]
    classes = [7 * k for k in range(1, draw(st.integers(1, 3)) + 1)]
    annotations = [
        {"id": i, "image_id": image, "category_id": label, "bbox": b, "area": b[2] * b[3] * shrink, "iscrowd": crowd}
        for i, (image, label, b, shrink, crowd) in enumerate(
            draw(
                st.lists(
                    st.tuples(
                        st.sampled_from(images),
                        st.sampled_from(classes),
                        box,
                        st.sampled_from([1.0, 0.4]),
                        st.integers(0, 1),
                    ),
                    max_size=12,
                )
            ),
            1,
        )
    ]
    detections = [
        {"image_id": image, "category_id": label, "bbox": b, "score": score}
        for image, label, b, score in draw(
            st.lists(
                st.tuples(
                    st.sampled_from(images), st.sampled_from(classes), box, st.sampled_from([0.1, 0.5, 0.50000001, 0.9])
                ),
                min_size=1,
                max_size=20,
            )
        )
    ]
    if draw(st.booleans()):  # more than 100 of a class in an image
        first = detections[0]
        detections += [{**first, "bbox": [k % 12, *first["bbox"][1:]], "score": k % 7 / 7} for k in range(120)]
    tables = {"images": [{"id": i} for i in images], "categories": [{"id": c, "name": f"c{c}"} for c in classes]}
    return {**tables, "annotations": annotations}, detections
