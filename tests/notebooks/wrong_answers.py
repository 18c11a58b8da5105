"""Wrong answers that learners are tempted to give, and a piece of the hint that each must get."""

WRONG_ANSWERS: dict[str, list[tuple[str, str]]] = {
    # 01_config
    "lr_at": [
        (
            "def lr_at(step, total, warmup, base):\n"
            "    if step < warmup:\n"
            "        return base * step / warmup\n"
            "    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))",
            "the first step has rate 0",
        ),
        (
            "def lr_at(step, total, warmup, base):\n"
            "    if step < warmup:\n"
            "        return base * (step + 1) / warmup\n"
            "    return base * 0.5 * (1 + math.cos(math.pi * step / total))",
            "count its steps from the warm-up's end",
        ),
    ],
    "largest_delta_dist": [
        (
            "def largest_delta_dist(k):\n    return math.inf if k < 2 else math.sqrt(2 * k / (k - 1))",
            "delta_dist is the radius",
        ),
        ("def largest_delta_dist(k):\n    return 1.0", "regular simplex"),
    ],
    "read_settings": [
        (
            "def read_settings(text, defaults):\n    return {**defaults, **(yaml.safe_load(text) or {})}",
            "'epoch' was accepted",
        ),
        ("def read_settings(text, defaults):\n    return {**defaults, **yaml.safe_load(text)}", "safe_load gives None"),
    ],
    "tokens_per_stage": [
        (
            "def tokens_per_stage(height, width):\n    return [height * width // s for s in (16, 32, 64, 128)]",
            "shrink by their product",
        ),
        (
            "def tokens_per_stage(height, width):\n    return [(height / s) * (width / s) for s in (4, 8, 16, 32)]",
            "divide with //",
        ),
    ],
    # 02_dataset
    "classes_from_colors": [
        (
            "def classes_from_colors(rgb, table):\n"
            "    classes = np.zeros(rgb.shape[:2], np.uint8)\n"
            "    for color, class_id in table.items():\n"
            "        classes[(rgb == color).any(axis=2)] = class_id\n"
            "    return classes",
            "all three channels count",
        ),
        (
            "def classes_from_colors(rgb, table):\n"
            "    by_sum = {sum(color): class_id for color, class_id in table.items()}\n"
            "    return np.array([[by_sum[s] for s in row] for row in rgb.sum(axis=2).tolist()], np.uint8)",
            "all three channels count",
        ),
        (
            "def classes_from_colors(rgb, table):\n"
            "    classes = np.zeros(rgb.shape[:2], np.uint8)\n"
            "    for color, class_id in table.items():\n"
            "        classes[(rgb == color).all(axis=2)] = class_id\n"
            "    return classes",
            "is not in the table, and was accepted",
        ),
        (
            "def classes_from_colors(rgb, table):\n"
            "    return np.array([[table[tuple(pixel)] for pixel in row] for row in rgb.tolist()])",
            "should be uint8",
        ),
        (
            "def classes_from_colors(rgb, table):\n"
            "    return np.array([[table[tuple(pixel)] for pixel in row] for row in rgb.tolist()], np.uint8)",
            "it raised KeyError",
        ),
        (
            "def classes_from_colors(rgb, table):\n"
            "    if set(map(tuple, rgb.reshape(-1, 3).tolist())) - set(table):\n"
            "        raise ValueError('unknown colour')\n"
            "    return np.array([[table[tuple(pixel)] for pixel in row] for row in rgb.tolist()], np.uint8)",
            "name the unknown colour",
        ),
    ],
    "flip_together": [
        (
            "def flip_together(image, semantic, instance, rng, p=0.5):\n"
            "    return tuple(a[:, ::-1].copy() if rng.random() < p else a for a in (image, semantic, instance))",
            "draw once, for all three",
        ),
        (
            "def flip_together(image, semantic, instance, rng, p=0.5):\n"
            "    if rng.random() >= p:\n"
            "        return image, semantic, instance\n"
            "    return tuple(a[:, ::-1] for a in (image, semantic, instance))",
            "return copies",
        ),
        (
            "def flip_together(image, semantic, instance, rng, p=0.5):\n"
            "    if rng.random() >= p:\n"
            "        return image, semantic, instance\n"
            "    return tuple(a[::-1].copy() for a in (image, semantic, instance))",
            "upside down",
        ),
        (
            "def flip_together(image, semantic, instance, rng, p=0.5):\n"
            "    if rng.random() >= p:\n"
            "        return image, semantic, instance\n"
            "    return tuple(a[..., ::-1].copy() for a in (image, semantic, instance))",
            "red becomes blue",
        ),
    ],
    "resize_mask": [
        (
            "def resize_mask(mask, height, width):\n"
            "    wide = torch.from_numpy(mask.astype(np.float32))[None, None]\n"
            "    out = F.interpolate(wide, (height, width), mode='bilinear')[0, 0]\n"
            "    return out.round().numpy().astype(mask.dtype)",
            "interpolation mixed ids",
        ),
        (
            "def resize_mask(mask, height, width):\n"
            "    small = torch.from_numpy(mask.astype(np.uint8))[None, None]\n"
            "    return F.interpolate(small, (height, width), mode='nearest')[0, 0].numpy()",
            "8 bits do not hold them",
        ),
        (
            "def resize_mask(mask, height, width):\n"
            "    rows = np.arange(width) * mask.shape[0] // width\n"
            "    columns = np.arange(height) * mask.shape[1] // height\n"
            "    return mask[rows][:, columns]",
            "height and width are swapped",
        ),
        (
            "def resize_mask(mask, height, width):\n"
            "    rows = np.arange(height) * mask.shape[0] // height\n"
            "    columns = np.arange(width) * mask.shape[1] // width\n"
            "    return mask[rows][:, columns].astype(np.int64)",
            "the type should stay",
        ),
    ],
    "class_shares": [
        (
            "def class_shares(masks, num_classes=6):\n"
            "    total = sum(mask.size for mask in masks)\n"
            "    return np.array([sum((mask == c).sum() for mask in masks) / total for c in range(num_classes)])",
            "still in the denominator",
        ),
        (
            "def class_shares(masks, num_classes=6):\n"
            "    shares = [np.bincount(mask[mask != 255], minlength=num_classes) for mask in masks]\n"
            "    return np.mean([share / share.sum() for share in shares], axis=0)",
            "add pixels, not shares",
        ),
        (
            "def class_shares(masks, num_classes=6):\n"
            "    counts = sum(np.bincount(mask[mask != 255], minlength=num_classes) for mask in masks)\n"
            "    return counts / counts.sum()",
            "0 / 0",
        ),
    ],
    # 03_model
    "attention_by_hand": [
        ("def attention_by_hand(q, k, v):\n    return (q @ k.transpose(1, 2)).softmax(dim=-1) @ v", "not scaled"),
        (
            "def attention_by_hand(q, k, v):\n"
            "    return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=1) @ v",
            "over the keys (last axis)",
        ),
        (
            "def attention_by_hand(q, k, v):\n"
            "    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).exp()\n"
            "    return weights / weights.sum(dim=-1, keepdim=True) @ v",
            "large scores overflow",
        ),
    ],
    "fuse_maps": [
        (
            "def fuse_maps(maps, weights):\n"
            "    projected = [torch.einsum('ec,bchw->behw', w, m) for w, m in zip(weights, maps)]\n"
            "    return sum(F.interpolate(p, size=maps[0].shape[2:]) for p in projected)",
            "(nearest)",
        ),
        (
            "def fuse_maps(maps, weights):\n"
            "    a, b = [torch.einsum('ec,bchw->behw', w, m) for w, m in zip(weights, maps)]\n"
            "    return a + F.interpolate(b, scale_factor=2, mode='bilinear')",
            "not by a factor of 2",
        ),
        (
            "def fuse_maps(maps, weights):\n"
            "    projected = [torch.einsum('ec,bchw->behw', w, m) for w, m in zip(weights, maps)]\n"
            "    size = maps[0].shape[2:]\n"
            "    return sum(F.interpolate(p, size=size, mode='bilinear', align_corners=True) for p in projected)",
            "align_corners=True",
        ),
        (
            "def fuse_maps(maps, weights):\n"
            "    projected = [torch.einsum('ec,bchw->behw', w, m) for w, m in zip(weights, maps)]\n"
            "    size = maps[0].shape[2:]\n"
            "    return sum(F.interpolate(p, size=size, mode='bilinear') for p in projected) / len(maps)",
            "their sum is asked for",
        ),
    ],
    "mix_ffn_parameters": [
        (
            "def mix_ffn_parameters(width, ratio):\n"
            "    hidden = ratio * width\n"
            "    return width * hidden + 9 * hidden + hidden * width",
            "biases are missing",
        ),
        (
            "def mix_ffn_parameters(width, ratio):\n"
            "    hidden = ratio * width\n"
            "    return width * hidden + hidden + 9 * hidden * hidden + hidden + hidden * width + width",
            "9 weights for each channel",
        ),
    ],
    "group_by_module": [
        (
            "def group_by_module(model, encoder, lr, scale):\n"
            "    inside = [p for name, p in model.named_parameters() if name.startswith('encoder.')]\n"
            "    outside = [p for name, p in model.named_parameters() if not name.startswith('encoder.')]\n"
            "    return [{'params': inside, 'lr': lr * scale}, {'params': outside, 'lr': lr}]",
            "group is empty",
        ),
        (
            "def group_by_module(model, encoder, lr, scale):\n"
            "    inside = [p for p in encoder.parameters() if p.requires_grad]\n"
            "    return [{'params': inside, 'lr': lr * scale}, {'params': list(model.parameters()), 'lr': lr}]",
            "in both groups",
        ),
        (
            "def group_by_module(model, encoder, lr, scale):\n"
            "    inside = list(encoder.parameters())\n"
            "    known = {id(p) for p in inside}\n"
            "    outside = [p for p in model.parameters() if id(p) not in known]\n"
            "    return [{'params': inside, 'lr': lr * scale}, {'params': outside, 'lr': lr}]",
            "frozen encoder",
        ),
    ],
    # 04_losses
    "pull_of_batch": [
        (
            "def pull_of_batch(embeddings, instance_mask, delta_var):\n"
            "    pixels, lanes = embeddings.movedim(1, -1), []  # (B, H, W, D)\n"
            "    for lane in instance_mask[instance_mask > 0].unique():\n"
            "        mine = pixels[instance_mask == lane]\n"
            "        distance = torch.linalg.vector_norm(mine - mine.mean(dim=0), dim=1)\n"
            "        lanes.append((distance - delta_var).clamp(min=0).square().mean())\n"
            "    return torch.stack(lanes).mean()",
            "these are two lanes",
        ),
        (
            "def pull_of_batch(embeddings, instance_mask, delta_var):\n"
            "    total = embeddings.sum() * 0\n"
            "    for pixels, mask in zip(embeddings, instance_mask):\n"
            "        lanes = mask[mask > 0].unique()\n"
            "        for lane in lanes:\n"
            "            mine = pixels[:, mask == lane]\n"
            "            distance = torch.linalg.vector_norm(mine - mine.mean(dim=1, keepdim=True), dim=0)\n"
            "            total = total + (distance - delta_var).clamp(min=0).square().mean() / len(lanes)\n"
            "    return total / len(embeddings)",
            "takes no part in the mean over images",
        ),
        (
            "def pull_of_batch(embeddings, instance_mask, delta_var):\n"
            "    lanes = []\n"
            "    for pixels, mask in zip(embeddings, instance_mask):\n"
            "        for lane in mask[mask > 0].unique():\n"
            "            mine = pixels[:, mask == lane]\n"
            "            distance = torch.linalg.vector_norm(mine - mine.mean(dim=1, keepdim=True), dim=0)\n"
            "            lanes.append((distance - delta_var).clamp(min=0).square().mean())\n"
            "    return torch.stack(lanes).mean()",
            "an image counts once",
        ),
        (
            "def pull_of_batch(embeddings, instance_mask, delta_var):\n"
            "    images = []\n"
            "    for pixels, mask in zip(embeddings, instance_mask):\n"
            "        lanes = []\n"
            "        for lane in mask[mask > 0].unique():\n"
            "            mine = pixels[:, mask == lane]\n"
            "            distance = (mine - mine.mean(dim=1, keepdim=True)).square().sum(dim=0).sqrt()\n"
            "            lanes.append((distance - delta_var).clamp(min=0).square().mean())\n"
            "        if lanes:\n"
            "            images.append(torch.stack(lanes).mean())\n"
            "    return torch.stack(images).mean() if images else embeddings.sum() * 0",
            "NaN gradient",
        ),
        (
            "def pull_of_batch(embeddings, instance_mask, delta_var):\n"
            "    images = []\n"
            "    for pixels, mask in zip(embeddings, instance_mask):\n"
            "        lanes = []\n"
            "        for lane in mask[mask > 0].unique():\n"
            "            mine = pixels[:, mask == lane]\n"
            "            distance = torch.linalg.vector_norm(mine - mine.mean(dim=1, keepdim=True), dim=0)\n"
            "            lanes.append((distance - delta_var).clamp(min=0).square().mean())\n"
            "        if lanes:\n"
            "            images.append(torch.stack(lanes).mean())\n"
            "    return torch.stack(images).mean() if images else torch.tensor(0.0)",
            "backward() fails",
        ),
    ],
    "tversky_prices": [
        (
            "def tversky_prices(name):\n"
            "    if name not in ('IoU', 'precision', 'recall'):\n"
            "        raise ValueError(name)\n"
            "    return {'IoU': (1.0, 1.0), 'precision': (0.0, 1.0), 'recall': (1.0, 0.0)}[name]",
            "this is recall",
        ),
        (
            "def tversky_prices(name):\n"
            "    return {'IoU': (0.5, 0.5), 'precision': (1.0, 0.0), 'recall': (0.0, 1.0)}[name]",
            "prices of Dice",
        ),
        (
            "def tversky_prices(name):\n"
            "    return {'IoU': (1.0, 1.0), 'precision': (1.0, 0.0), 'recall': (0.0, 1.0)}[name]",
            "it raised KeyError",
        ),
        (
            "def tversky_prices(name):\n"
            "    if name == 'IoU':\n"
            "        return 1.0, 1.0\n"
            "    return (1.0, 0.0) if name == 'precision' else (0.0, 1.0)",
            "it was answered",
        ),
    ],
    "dice_ignoring": [
        (
            "def dice_ignoring(probabilities, target, smooth=1.0):\n"
            "    truth = F.one_hot(target.where(target != 255, 0), probabilities.shape[1]).movedim(-1, 1)\n"
            "    overlap = (probabilities * truth).sum(dim=(0, 2, 3))\n"
            "    areas = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))\n"
            "    return 1 - ((2 * overlap + smooth) / (areas + smooth)).mean()",
            "counted as class 0",
        ),
        (
            "def dice_ignoring(probabilities, target, smooth=1.0):\n"
            "    valid = (target != 255)[:, None]\n"
            "    truth = F.one_hot(target.where(target != 255, 0), probabilities.shape[1]).movedim(-1, 1) * valid\n"
            "    overlap = (probabilities * truth).sum(dim=(0, 2, 3))\n"
            "    areas = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))\n"
            "    return 1 - ((2 * overlap + smooth) / (areas + smooth)).mean()",
            "mask the probabilities",
        ),
    ],
    "push_floor": [
        (
            "def push_floor(k, delta_dist):\n    return 2 * delta_dist - math.sqrt(2 * k / (k - 1))",
            "the term squares it",
        ),
        (
            "def push_floor(k, delta_dist):\n    return (2 * delta_dist - math.sqrt(2 * k / (k - 1))) ** 2",
            "the hinge is never negative",
        ),
    ],
    # 05_training
    "clip_by_norm": [
        (
            "def clip_by_norm(gradients, max_norm):\n"
            "    return [g * min(1.0, max_norm / float(g.norm())) for g in gradients]",
            "one norm for all",
        ),
        (
            "def clip_by_norm(gradients, max_norm):\n"
            "    norm = torch.cat([g.flatten() for g in gradients]).norm()\n"
            "    return [g * (max_norm / norm) for g in gradients]",
            "should stay as they are",
        ),
        (
            "def clip_by_norm(gradients, max_norm):\n"
            "    norm = torch.cat([g.flatten() for g in gradients]).norm()\n"
            "    if norm > max_norm:\n"
            "        for g in gradients:\n"
            "            g *= max_norm / norm\n"
            "    return gradients",
            "changed in place",
        ),
    ],
    "shares_of_step": [
        ("def shares_of_step(masks):\n    return [1 / len(masks) for _ in masks]", "number of batches"),
        (
            "def shares_of_step(masks):\n    return [m.numel() / sum(n.numel() for n in masks) for m in masks]",
            "unlabelled pixels",
        ),
        (
            "def shares_of_step(masks):\n"
            "    counts = [int((mask != 255).sum()) for mask in masks]\n"
            "    return [count / sum(counts) for count in counts]",
            "not an error",
        ),
    ],
    "EarlyStopping": [
        (
            "class EarlyStopping:\n"
            "    def __init__(self, patience):\n"
            "        self.patience, self.best, self.waited = patience, math.inf, 0\n\n"
            "    def stop(self, loss):\n"
            "        self.waited += loss >= self.best\n"
            "        self.best = min(self.best, loss)\n"
            "        return self.waited >= self.patience",
            "reset the counter",
        ),
        (
            "class EarlyStopping:\n"
            "    def __init__(self, patience):\n"
            "        self.patience, self.last, self.waited = patience, math.inf, 0\n\n"
            "    def stop(self, loss):\n"
            "        self.waited = 0 if loss < self.last else self.waited + 1\n"
            "        self.last = loss\n"
            "        return self.waited >= self.patience",
            "not with the one before",
        ),
        (
            "class EarlyStopping:\n"
            "    def __init__(self, patience):\n"
            "        self.patience, self.best, self.waited = patience, math.inf, 0\n\n"
            "    def stop(self, loss):\n"
            "        self.waited = 0 if loss <= self.best else self.waited + 1\n"
            "        self.best = min(self.best, loss)\n"
            "        return self.waited >= self.patience",
            "an equal loss",
        ),
    ],
    "first_bad_step": [
        (
            "def first_bad_step(losses, factor=3.0):\n"
            "    for i, loss in enumerate(losses):\n"
            "        if loss > factor * min(losses[: i + 1]):\n"
            "            return i\n"
            "    return -1",
            "NaN was missed",
        ),
        (
            "def first_bad_step(losses, factor=3.0):\n"
            "    for i, loss in enumerate(losses):\n"
            "        if not math.isfinite(loss) or loss > factor * losses[0]:\n"
            "            return i\n"
            "    return -1",
            "not with the first",
        ),
    ],
    # 06_postprocessing
    "same_partition": [
        ("def same_partition(a, b):\n    return bool((a == b).all())", "names do not count"),
        (
            "def same_partition(a, b):\n"
            "    return all(len(set(b[a == name].tolist())) == 1 for name in set(a.tolist()))",
            "look from both sides",
        ),
        (
            "def same_partition(a, b):\n"
            "    sizes = [sorted(np.unique(x, return_counts=True)[1].tolist()) for x in (a, b)]\n"
            "    return sizes[0] == sizes[1]",
            "share no cluster",
        ),
    ],
    "mean_shift": [
        (
            "def mean_shift(x, start, radius):\n    return x[np.linalg.norm(x - start, axis=1) <= radius].mean(axis=0)",
            "after one step",
        ),
        ("def mean_shift(x, start, radius):\n    return x.mean(axis=0)", "only those within the radius"),
        (
            "def mean_shift(x, start, radius):\n"
            "    for _ in range(50):\n"
            "        near = np.linalg.norm(x - start, axis=1) <= radius\n"
            "        start = x[near].sum(axis=0) / max(near.sum(), 1)\n"
            "    return start",
            "stay at the start",
        ),
    ],
    "ids_from_labels": [
        (
            "def ids_from_labels(labels, min_pixels):\n"
            "    ids = np.zeros(len(labels), dtype=int)\n"
            "    names, counts = np.unique(labels, return_counts=True)\n"
            "    for new, name in enumerate(names[counts >= min_pixels], start=1):\n"
            "        ids[labels == name] = new\n"
            "    return ids",
            "noise (-1) became an instance",
        ),
        (
            "def ids_from_labels(labels, min_pixels):\n"
            "    ids = np.zeros(len(labels), dtype=int)\n"
            "    names, counts = np.unique(labels[labels >= 0], return_counts=True)\n"
            "    for new, (name, count) in enumerate(zip(names, counts), start=1):\n"
            "        if count >= min_pixels:\n"
            "            ids[labels == name] = new\n"
            "    return ids",
            "leaves a gap",
        ),
    ],
    "number_lanes": [
        (
            "def number_lanes(polylines, row):\n"
            "    return np.argsort([np.interp(row, line[:, 1], line[:, 0]) for line in polylines]) + 1",
            "which place each lane has",
        ),
        (
            "def number_lanes(polylines, row):\n"
            "    meets = [np.interp(row, line[:, 1], line[:, 0]) for line in polylines]\n"
            "    return np.argsort(np.argsort(meets)) + 1",
            "repeats the last x",
        ),
        (
            "def number_lanes(polylines, row):\n"
            "    return np.argsort(np.argsort([line[:, 0].mean() for line in polylines])) + 1",
            "not by its mean",
        ),
    ],
    # 07_end_to_end
    "miou_of": [
        (
            "def miou_of(matrix):\n"
            "    hits = np.diag(matrix)\n"
            "    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits\n"
            "    return (hits / np.maximum(union, 1)).mean()",
            "counted as IoU 0",
        ),
        (
            "def miou_of(matrix):\n"
            "    hits = np.diag(matrix)\n"
            "    with np.errstate(invalid='ignore'):\n"
            "        return (hits / (matrix.sum(axis=0) + matrix.sum(axis=1) - hits)).mean()",
            "made the mean NaN",
        ),
        (
            "def miou_of(matrix):\n"
            "    present = matrix.sum(axis=1) > 0\n"
            "    hits = np.diag(matrix)\n"
            "    return (hits / np.maximum(matrix.sum(axis=0) + matrix.sum(axis=1) - hits, 1))[present].mean()",
            "predicted but never true does occur",
        ),
        ("def miou_of(matrix):\n    return np.diag(matrix).sum() / max(matrix.sum(), 1)", "that is pixel accuracy"),
    ],
    "counts_of": [
        (
            "def counts_of(iou, threshold=0.5):\n"
            "    tp = int((iou > threshold).sum())\n"
            "    return tp, iou.shape[0] - tp, iou.shape[1] - tp",
            "match one to one",
        ),
        (
            "def counts_of(iou, threshold=0.5):\n"
            "    rest, tp = iou.copy(), 0\n"
            "    while rest.size and rest.max() > threshold:\n"
            "        i, j = np.unravel_index(rest.argmax(), rest.shape)\n"
            "        rest[i], rest[:, j], tp = 0, 0, tp + 1\n"
            "    return tp, iou.shape[0] - tp, iou.shape[1] - tp",
            "taking the best pair first",
        ),
        (
            "def counts_of(iou, threshold=0.5):\n"
            "    tp = min(iou.shape)\n"
            "    return tp, iou.shape[0] - tp, iou.shape[1] - tp",
            "below the threshold",
        ),
    ],
    "outline": [
        (
            "def outline(mask, band):\n"
            "    near = F.max_pool2d((~mask).float()[None, None], 2 * band + 1, stride=1, padding=band)[0, 0]\n"
            "    return mask & (near > 0)",
            "the edge is outline too",
        ),
        (
            "def outline(mask, band):\n"
            "    outside = F.pad((~mask).float(), (1,) * 4, value=1.0)\n"
            "    return mask & (F.max_pool2d(outside[None, None], 3, stride=1)[0, 0] > 0)",
            "2 · band + 1 wide",
        ),
        (
            "def outline(mask, band):\n"
            "    x = mask.float()[None, None]\n"
            "    return (F.max_pool2d(x, 2 * band + 1, stride=1, padding=band)[0, 0] > 0) & ~mask",
            "nothing outside belongs to it",
        ),
    ],
    "difference_interval": [
        (
            "def difference_interval(a, b, seed):\n"
            "    rng = np.random.default_rng(seed)\n"
            "    f1 = []\n"
            "    for c in (a, b):\n"
            "        c = c[rng.integers(len(c), size=(1000, len(c)))].sum(axis=1)\n"
            "        f1.append(2 * c[:, 0] / (2 * c[:, 0] + c[:, 1] + c[:, 2]))\n"
            "    return np.quantile(f1[0] - f1[1], [0.025, 0.975])",
            "draw the same scenes for both",
        ),
        (
            "def difference_interval(a, b, seed):\n"
            "    drawn = np.random.default_rng(seed).integers(len(a), size=(1000, len(a)))\n"
            "    a, b = (2 * c[:, 0] / (2 * c[:, 0] + c[:, 1] + c[:, 2]) for c in (a, b))\n"
            "    return np.quantile(a[drawn].mean(axis=1) - b[drawn].mean(axis=1), [0.025, 0.975])",
            "pool the counts",
        ),
        (
            "def difference_interval(a, b, seed):\n"
            "    drawn = np.random.default_rng(seed).integers(len(a), size=(1000, len(a)))\n"
            "    a, b = (c[drawn].sum(axis=1) for c in (a, b))\n"
            "    a, b = (2 * c[:, 0] / (2 * c[:, 0] + c[:, 1] + c[:, 2]) for c in (a, b))\n"
            "    return (a - b).min(), (a - b).max()",
            "too wide",
        ),
    ],
}
