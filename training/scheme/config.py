"""Settings of the scheme's parts. Each part has a weight, 0 by default: a recipe that sets none is labels only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ImagesConfig:
    """The camera images that belong to the training scans; read when a part that needs them is on."""

    cameras: int = 1  # images a scan and step, drawn anew each time from those that there are
    pairs: int = 0  # at most, of a point and a pixel, a scan and step, labelled ones first; 0: all
    scale: float = 0.5  # of the recorded size, before anything else
    color: float = 0.2  # brightness, contrast and saturation, uniform in 1 +-
    flip: float = 0.0  # probability of mirroring an image, its points' pixels with it


@dataclass
class ImageNetworkConfig:
    """The image network; it exists in training only."""

    name: str = "resnet18"  # timm model
    weights: str = ""  # .safetensors file, or `timm` for the published weights of that name; empty: none
    channels: int = 64  # of each pyramid level
    lr: float = 0.25  # factor on the learning rate of what has weights already
    # Remember what a backbone that stays makes of each image (small sets: some 2 MB an image of 400 x 225 in resnet18);
    # needs lr 0, and images that are never changed.
    keep: bool = False


@dataclass
class TransferConfig:
    """Multi-scale deformable knowledge transfer."""

    weight: float = 0.0  # of the distillation from the fused branch to the point network
    lovasz: float = 0.0  # of the same weight, of Lovasz-softmax against the class that the fused branch names
    every: int = 1  # images are looked at in every so many-th step, and count so many times then
    fused: float = 1.0  # of CE + Lovasz of the fused branch on the labels
    image: float = 1.0  # of CE + Lovasz of the image network's own prediction on the labels
    scales: list[int] = field(default_factory=lambda: [8, 4, 2, 1])  # strides of the decoder's stages
    levels: int = 4  # pyramid levels a query looks at, from the finest; 1: its home level alone
    heads: int = 4
    offsets: int = 4  # places a head looks at in each level; 0: one-to-one
    offset_lr: float = 0.1  # factor on the learning rate of the offsets
    temperature: float = 1.0


@dataclass
class PseudoConfig:
    """Labels for unlabelled points from the image-text model and the teacher."""

    weight: float = 0.0
    soft: float = 0.0  # of the same weight, of KL(image-text || student) where neither of the two is believed
    lovasz: float = 0.0  # of the same weight, of Lovasz-softmax on pseudo labels and on the likeliest of the others
    spread: float = 0.0  # factor on the say of a drawn label about its cluster and its neighbours; 0: none
    cache: str = ""  # folder that training/pseudo_labels.py wrote; empty: teacher and spread labels alone
    sure: float = 0.9  # probability from which one of the two is believed without the other
    agree: float = 0.5  # probability that the teacher needs when both name the same class
    floor: float = 0.6  # a class that is seldom named surely may be believed from here on ...
    share: float = 0.5  # ... where the surest of its predictions begin that make up this share of them
    balance: float = (
        0.0  # how far the image-text model's rare classes are helped: 0 as the labels have them, 1 all alike
    )
    precision: float = 0.3  # of a class of the image-text model on the labels; a less precise one is switched off


@dataclass
class ContrastConfig:
    """Semantic contrastive regularization in the text model's space."""

    weight: float = 0.0
    dim: int = 128  # of the embeddings where there is no text model
    temperature: float = 0.07
    queue: int = 256  # embeddings kept of each class
    anchors: int = 1024  # a step, classes alike
    momentum: float = 0.99  # of the prototypes
    align: float = 0.5  # of the same loss against the texts alone, which keeps the embeddings in the text's space
    negatives: float = 0.05  # a class is a safe negative of a point when no source gives it more than this


@dataclass
class TeacherConfig:
    """The running mean of the point network's weights as a teacher; its momentum is optim.average."""

    weight: float = 0.0  # of KL(teacher || student) on unlabelled points


@dataclass
class DistillConfig:
    """A trained network of this package that teaches the one that is trained: a large one, a small one that drives."""

    checkpoint: str = ""  # a file or a shipped name, of any preset, grid, features; knows the classes; empty: none
    weight: float = 1.0  # of KL(checkpoint || student) on every voxel; 16 where few points have a label
    lovasz: float = 1.0  # of the same weight, of Lovasz-softmax against the class that the checkpoint names
    temperature: float = 1.0


@dataclass
class ScheduleConfig:
    """When the parts that need no label join."""

    opinions: float = 0.0  # share of the steps before what the image-text model alone says is learnt
    labels_only: float = 0.1  # share of the steps before agreement, contrast and teacher begin, which ask the teacher
    ramp: float = 0.1  # share of the steps in which their weights rise to full
