"""What is published about the data sets whose layouts are known: sizes, licence, source and traps, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tavt_kit.core.model_card import Licence


@dataclass(frozen=True, slots=True)
class Facts:
    """One data set.

    Args:
        title: For people.
        classes: How many.
        sizes: Images of the published parts; empty where no figure is known.
        licence: In a few words; ``"unknown"`` where we found none stated.
        source: Its page or paper.
        layout: What must lie in the folder.
        trap: What goes wrong most easily.
        held_for_val: Share of each class's training images that becomes val, where no val is published.
        note: What must be said of results on it, or nothing.
        aliases: Other names it goes by.
    """

    title: str
    classes: int
    sizes: Mapping[str, int]
    licence: str
    source: str
    layout: str
    trap: str
    held_for_val: float = 0.1
    note: str = ""
    aliases: tuple[str, ...] = ()

    def as_licence(self) -> Licence:
        """As run folders and exported files carry it."""
        return Licence(self.title, self.licence, self.source)


_RESEARCH = "non-commercial research and education only; see its page"
_UNSTATED = "unknown; ask its authors"
_LISTS = "anno/train.txt, anno/test.txt ('file label'), images/"
_THREE = 1 / 3
"""With three images a class one is val, two are train."""


def _leaves(title: str, classes: int, each: tuple[int, int], share: float, *aliases: str) -> Facts:
    sizes = {"train": each[0], "test": each[1]}
    trap = "three training images a class: one becomes val" if share == _THREE else "labels count from 1"
    source = "Yu et al., ICCV 2021; github.com/XiaohanYu-GU/Ultra-FGVC"
    return Facts(title, classes, sizes, _UNSTATED, source, _LISTS, trap, share, aliases=aliases)


def _unsized(title: str, classes: int) -> Facts:
    trap = "no published sizes are known here"
    return Facts(title, classes, {}, _UNSTATED, "the list layout of Mix-ViT's loaders", _LISTS, trap)


_AGEING = {
    f"soyageing-{part}": _leaves(
        f"SoyAgeing {part.upper()}", 198, (990, 990), 0.2, f"soybean_aging_{part}", f"soyaging-{part}"
    )
    for part in ("r1", "r3", "r4", "r5", "r6")
}
_VAL_AS_TEST = "The published val is used as test; val is taken from train."

FACTS = MappingProxyType(
    {
        "cub": Facts(
            "CUB-200-2011", 200, {"train": 5994, "test": 5794}, _RESEARCH,
            "Wah et al., 2011; vision.caltech.edu/datasets/cub_200_2011",
            "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, images/; or anno/ lists",
            "some images are also in ImageNet's training set", aliases=("cub200", "cub_200_2011", "cub-200-2011"),
        ),
        "cars": Facts(
            "Stanford Cars", 196, {"train": 8144, "test": 8041}, _RESEARCH,
            "Krause et al., 2013",
            "devkit/cars_meta.mat, devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat (there or in devkit/), "
            "cars_train/, cars_test/",
            "the test labels are a download of their own", aliases=("stanford-cars", "car"),
        ),
        "dogs": Facts(
            "Stanford Dogs", 120, {"train": 12000, "test": 8580}, "unknown; the images are ImageNet's",
            "Khosla et al., 2011; vision.stanford.edu/aditya86/ImageNetDogs",
            "train_list.mat, test_list.mat, Images/",
            "its images are in ImageNet, so weights pretrained there have seen the test",
            aliases=("stanford-dogs", "dog"),
            note="The images are ImageNet's: weights pretrained there may have seen the test images.",
        ),
        "nabirds": Facts(
            "NABirds", 555, {"train": 23929, "test": 24633}, _RESEARCH,
            "Van Horn et al., CVPR 2015; dl.allaboutbirds.org/nabirds",
            "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, hierarchy.txt, images/",
            "1,011 nodes in classes.txt, of which 555 have images",
        ),
        "aircraft": Facts(
            "FGVC-Aircraft", 100, {"train": 3334, "val": 3333, "test": 3333}, "non-commercial research only",
            "Maji et al., 2013; robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
            "data/variants.txt, data/images_variant_{train,val,test}.txt, data/images/; or train.txt, test.txt",
            "papers train on train and val together (6,667); a copyright line is in the lowest 20 rows of each image",
            aliases=("fgvc-aircraft", "air"),
        ),
        "flowers": Facts(
            "Oxford 102 Flowers", 102, {"train": 1020, "val": 1020, "test": 6149}, _UNSTATED,
            "Nilsback and Zisserman, 2008; robots.ox.ac.uk/~vgg/data/flowers/102",
            "imagelabels.mat, setid.mat, jpg/",
            "the test is the largest part; some papers exchange train and test",
            aliases=("flowers102", "oxford-flowers"),
        ),
        "pets": Facts(
            "Oxford-IIIT Pet", 37, {"train": 3680, "test": 3669}, "CC BY-SA 4.0",
            "Parkhi et al., CVPR 2012; robots.ox.ac.uk/~vgg/data/pets",
            "annotations/trainval.txt, annotations/test.txt, images/",
            "images/ holds more images than the lists name", aliases=("oxford-pets", "oxford-iiit-pet"),
        ),
        "cifar10": Facts(
            "CIFAR-10", 10, {"train": 50000, "test": 10000}, _UNSTATED,
            "Krizhevsky, 2009; cs.toronto.edu/~kriz/cifar.html",
            "binary version: data_batch_{1..5}.bin, test_batch.bin, batches.meta.txt",
            "the Python version's pickles are refused", aliases=("cifar-10",),
        ),
        "cifar100": Facts(
            "CIFAR-100", 100, {"train": 50000, "test": 10000}, _UNSTATED,
            "Krizhevsky, 2009; cs.toronto.edu/~kriz/cifar.html",
            "binary version: train.bin, test.bin, fine_label_names.txt",
            "the Python version's pickles are refused; the fine labels are the classes", aliases=("cifar-100",),
        ),
        "inat2017": Facts(
            "iNaturalist 2017", 5089, {"train": 579184, "test": 95986}, _RESEARCH,
            "Van Horn et al., CVPR 2018; github.com/visipedia/inat_comp",
            "train2017.json, val2017.json, train_val_images/",
            "the test labels are not published: the published val is our test", 0.05, _VAL_AS_TEST,
            ("inaturalist2017",),
        ),
        "imagenet": Facts(
            "ImageNet (ILSVRC 2012)", 1000, {"train": 1281167, "test": 50000}, _RESEARCH,
            "Russakovsky et al., 2015; image-net.org",
            "train/{wnid}/, val/{wnid}/",
            "val comes as one flat folder and must be sorted into class folders first", 0.02, _VAL_AS_TEST,
            ("ilsvrc2012", "imagenet1k"),
        ),
        "cotton80": _leaves("Cotton80", 80, (240, 240), _THREE, "cotton"),
        "soylocal": _leaves("SoyLocal", 200, (600, 600), _THREE, "soyloc", "soybean200"),
        "soygene": _leaves("SoyGene", 1110, (12763, 11143), 0.1, "soybean_gene"),
        "soyglobal": _leaves("SoyGlobal", 1938, (5814, 5814), _THREE, "soybean2000"),
        **_AGEING,
        "afd": _unsized("AFD", 4),
        "wrd": _unsized("WRD", 3),
        "btf": _unsized("BTF", 10),
    }
)  # fmt: skip
"""Data sets by the name the command line uses."""

_ALIASES = MappingProxyType({alias: name for name, facts in FACTS.items() for alias in facts.aliases})


def canonical(name: str) -> str | None:
    """The table's name of a data set, whatever its case and spelling; None if it is not there."""
    name = name.strip().lower()
    name = _ALIASES.get(name, name)
    return name if name in FACTS else None
