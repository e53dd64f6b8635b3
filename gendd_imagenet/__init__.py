"""Teachers and students on 224x224 images: ImageNet, ImageNet-LT, CC3M, any folder of images or shards."""
