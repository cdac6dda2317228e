"""PRESETS: the parameters that a paper or its code uses on one benchmark, where it has any.

A default of the catalogue is one value for all networks; what authors chose for theirs stands here.
None was chosen by us, and none on our test data. Scores that are absent keep their defaults, which
may be what authors use there; vra's constant bounds on ImageNet no parameter says.
"""

PRESETS = {
    # DenseNet-BC-100-12 on CIFAR-10.
    "cifar10_densenet": {
        "ash_s+energy": {"ash_s.percentile": 95.0},  # the ASH authors' code
        "himplos": {"mask_percentile": 60.0, "clip": 1.6},  # the HIMPLoS README
        "knn": {"k": 50},  # the KNN paper, section 4.1
        # The LINe code, demo-cifar.sh.
        "line": {"activation_percentile": 90.0, "weight_percentile": 90.0, "clip": 1.0},
        # HIMPLoS's clip for this network; see ReAct.
        "react+energy": {"react.threshold": 1.6},
        "vra+energy": {"vra.low_percentile": 60.0, "vra.high_percentile": 90.0},  # VRA's quick_ood
    },
    # The same network on CIFAR-100.
    "cifar100_densenet": {
        "ash_s+energy": {"ash_s.percentile": 95.0},  # the ASH authors' code; a first version had 90
        "himplos": {"mask_percentile": 60.0, "clip": 1.6},
        "knn": {"k": 200},
        "line": {"activation_percentile": 10.0, "weight_percentile": 90.0, "clip": 1.0},
        "react+energy": {"react.threshold": 1.6},
        "vra+energy": {"vra.low_percentile": 60.0, "vra.high_percentile": 95.0},
    },
    # ResNet-50 on ImageNet-1k.
    "imagenet_resnet50": {
        "adascale_a": {"lowest": 80.0, "highest": 85.0},  # the AdaSCALE authors' results folder
        "adascale_l": {"lowest": 80.0, "highest": 85.0},
        "cop": {"explained": 0.99},  # the CoP authors' run_detection.sh, as corp
        "corp": {"explained": 0.5, "gamma": 3.0, "components": 4096},
        "dice+energy": {"dice.percentile": 70.0},  # the DICE code, demo-imagenet.sh
        "himplos": {"mask_percentile": 30.0, "clip": 0.8},
        "knn": {"k": 1000},
        # The LINe code, demo-imagenet.sh.
        "line": {"activation_percentile": 10.0, "weight_percentile": 10.0, "clip": 0.8},
        "nac": {"edges": 50, "full": 0.01, "steepness": 3000.0},  # its nac_imagenet.yml, avgpool
        "nci": {"alpha": 0.0001},  # OpenOOD, which searches up to 0.1
        "openmax": {"alpha": 10},  # OSDN's; OpenOOD has 3
        "react+energy": {"react.percentile": 90.0},  # the ReAct paper, section 4.2
    },
}
