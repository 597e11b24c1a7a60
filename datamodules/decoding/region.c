/* Decodes a rectangle of a JPEG. Compiled and called by region.py.

   libjpeg-turbo must undo the entropy coding of all rows above the rectangle, because each block
   depends on the one before. But it transforms, upsamples and converts only what is requested, and
   never looks at the rows below. The pixels are equal to the bit to those of the whole image: same
   DCT (islow), same fancy upsampling.

   No flaw is tolerated here. If libjpeg-turbo so much as warns, the file is refused, and the caller
   decodes the whole image. */

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "the JPEG library is not libjpeg-turbo"
#endif

/* Pixels on both sides that are decoded too. Fancy upsampling looks at two of them, and is not done
   for less than five. */
#define MARGIN 8

#define ROWS 8 /* requested at a time; the library gives as many as it has ready */

struct refusal {
  struct jpeg_error_mgr manager; /* first, so that a pointer to it is also one to this struct */
  jmp_buf escape;
};

static void refuse(j_common_ptr info) { longjmp(((struct refusal *)info->err)->escape, 1); }

static void refuse_warnings(j_common_ptr info, int level) {
  if (level < 0) refuse(info); /* other levels are traces */
}

/* Whether only entropy-coded data and the end of the image follow.

   A file that is cut short, or has anything else there, may be unreadable when it is decoded to its
   end. With this check, whether a sample is readable does not depend on the drawn rectangle. */
static int ends_well(j_decompress_ptr info) {
  const JOCTET *at = info->src->next_input_byte, *end = at + info->src->bytes_in_buffer;
  int marker = info->unread_marker;
  while (marker == 0 || (marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7)) {
    at = memchr(at, 0xFF, end - at);
    while (at != NULL && at < end && *at == 0xFF) at++;
    if (at == NULL || at == end) return 0;
    marker = *at++; /* 0 if the 0xFF was data */
  }
  return marker == JPEG_EOI;
}

/* Decode the rectangle to RGB.

   data, size: the file and its length in bytes.
   left, top, width, height: the rectangle, in pixels.
   out: height x width x 3 bytes.
   Returns 1, or 0 if the whole image has to be decoded; then the content of `out` is undefined. */
int decode_region(const unsigned char *data, unsigned long size, unsigned left, unsigned top,
                  unsigned width, unsigned height, unsigned char *out) {
  struct jpeg_decompress_struct info;
  struct refusal error;
  info.err = jpeg_std_error(&error.manager);
  error.manager.error_exit = refuse;
  error.manager.emit_message = refuse_warnings;
  if (setjmp(error.escape)) {
    jpeg_destroy_decompress(&info);
    return 0;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data, size);
  jpeg_read_header(&info, TRUE);

  int fits = width > 0 && height > 0 && left < info.image_width && top < info.image_height &&
             width <= info.image_width - left && height <= info.image_height - top;
  int plain = info.jpeg_color_space == JCS_YCbCr || info.jpeg_color_space == JCS_GRAYSCALE ||
              info.jpeg_color_space == JCS_RGB;
  /* The library decodes an image with several scans (progressive) whole in any case. */
  if (!fits || !plain || jpeg_has_multiple_scans(&info)) refuse((j_common_ptr)&info);

  info.out_color_space = JCS_RGB;
  info.dct_method = JDCT_ISLOW;
  info.do_fancy_upsampling = TRUE;
  jpeg_start_decompress(&info);

  /* The library moves the left edge to that of a block, and stores it in `begin`. */
  JDIMENSION begin = left > MARGIN ? left - MARGIN : 0, end = left + width + MARGIN;
  JDIMENSION span = (end < info.image_width ? end : info.image_width) - begin;
  if (span < info.image_width) jpeg_crop_scanline(&info, &begin, &span);

  JSAMPARRAY rows =
      info.mem->alloc_sarray((j_common_ptr)&info, JPOOL_IMAGE, info.output_width * 3, ROWS);
  if (top > 0 && jpeg_skip_scanlines(&info, top) != top) refuse((j_common_ptr)&info);
  for (unsigned y = 0; y < height;) {
    unsigned count = jpeg_read_scanlines(&info, rows, height - y < ROWS ? height - y : ROWS);
    if (count == 0) refuse((j_common_ptr)&info);
    for (unsigned each = 0; each < count; each++, y++)
      memcpy(out + (size_t)y * width * 3, rows[each] + (size_t)(left - begin) * 3, (size_t)width * 3);
  }
  int whole = ends_well(&info);
  jpeg_destroy_decompress(&info);
  return whole;
}
