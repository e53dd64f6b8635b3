"""Teachers and students on 32x32 images: CIFAR-10/100, the built-in digits, any folder of small images."""
